//! What an alert must and must not do, against schedules of figures.

use proptest::prelude::*;

use super::*;

const LEVELS: Levels =
    Levels { fire: 10.0, clear: 5.0, hold: Duration::from_secs(3), rest: Duration::from_secs(4) };

fn at(second: u64) -> Time {
    Time::since_start(Duration::from_secs(second))
}

fn figure(rule: Rule, subject: &str, value: f64) -> Measured {
    Measured { rule, subject: subject.to_owned(), value, cause: format!("it is {value}") }
}

/// What is told over a schedule, one figure a second; `None` is a second without the subject.
fn told(rule: Rule, levels: Levels, figures: &[Option<f64>]) -> Vec<String> {
    let mut alerts = Alerts::default();
    let mut told = Vec::new();
    for (second, value) in (0..).zip(figures) {
        let measured = value.map(|value| figure(rule, "x", value)).into_iter().collect();
        let wall = WallTime(second * 1000);
        for notice in alerts.look(at(second), wall, measured, |_| Some(levels)) {
            told.push(match notice {
                Notice::Firing(alert) => {
                    format!("{second} fires since {} at {}", alert.since.0 / 1000, alert.value)
                }
                Notice::Resolved(alert) => format!("{second} over at {}", alert.value),
            });
        }
    }
    told
}

#[test]
fn an_alert_follows_its_figure_without_flapping() {
    let well = Some(0.0);
    // Why, the figures, and what is told of them.
    type Row = (&'static str, Vec<Option<f64>>, &'static [&'static str]);
    let rows: [Row; 9] = [
        ("always well", vec![well; 9], &[]),
        ("bad for less than it has to be", [vec![Some(11.0); 3], vec![well; 9]].concat(), &[]),
        ("bad for long enough", vec![Some(11.0); 5], &["3 fires since 0 at 11"]),
        ("bad at exactly its level", vec![Some(10.0); 4], &["3 fires since 0 at 10"]),
        (
            "bad again and again, never for long enough",
            [vec![Some(11.0); 2], vec![well]].concat().repeat(9),
            &[],
        ),
        (
            "bad, then well for long enough: told once each",
            [vec![Some(11.0); 9], vec![well; 9]].concat(),
            &["3 fires since 0 at 11", "13 over at 0"],
        ),
        (
            "better, but not well: it swings around its level and goes on firing",
            [vec![Some(11.0); 4], [Some(9.0), Some(11.0)].repeat(20)].concat(),
            &["3 fires since 0 at 11"],
        ),
        (
            "well again and again, never for long enough",
            [vec![Some(11.0); 4], [vec![well; 4], vec![Some(11.0)]].concat().repeat(9)].concat(),
            &["3 fires since 0 at 11"],
        ),
        (
            "gone: that is as good as well",
            [vec![Some(11.0); 4], vec![None; 9]].concat(),
            &["3 fires since 0 at 11", "8 over at 11"],
        ),
    ];
    for (why, figures, expected) in rows {
        assert_eq!(told(Rule::LagEntries, LEVELS, &figures), expected, "{why}");
    }
}

#[test]
fn where_less_is_worse_the_levels_are_turned_around() {
    let levels = Levels { fire: 10.0, clear: 20.0, hold: Duration::ZERO, rest: Duration::ZERO };
    let figures = [30.0, 11.0, 10.0, 15.0, 19.0, 20.0, 15.0].map(Some);
    let expected = ["2 fires since 2 at 10", "5 over at 20"];
    assert_eq!(told(Rule::DiskLow, levels, &figures), expected);
}

#[test]
fn what_fires_survives_a_restart_and_is_not_told_again() {
    let bad = |value| vec![figure(Rule::DiskLow, "home", value)];
    let levels = |rule: Rule| Some(rule.levels_default());
    let mut before = Alerts::default();
    for second in 0..20 {
        before.look(at(second), WallTime(second), bad(1.0), levels);
    }
    let firing: Vec<Alert> = before.firing().cloned().collect();
    assert_eq!(firing.len(), 1);
    let mut after = Alerts::restore(firing.clone(), Vec::new(), before.last_id());
    for second in 0..20 {
        assert_eq!(after.look(at(second), WallTime(100), bad(2.0), levels), []);
    }
    assert_eq!(
        after.firing().next().map(|alert| (alert.id, alert.since)),
        Some((1, firing[0].since))
    );
    let mut notices = Vec::new();
    for second in 20..120 {
        notices.extend(after.look(at(second), WallTime(100), bad(1e12), levels));
    }
    assert!(
        matches!(notices.as_slice(), [Notice::Resolved(alert)] if alert.id == 1),
        "{notices:?}"
    );
}

#[test]
fn a_rule_that_is_switched_off_resolves_what_it_fired() {
    let mut alerts = Alerts::default();
    let bad = || vec![figure(Rule::BitRot, "disk", 1.0)];
    let fired = alerts.look(at(0), WallTime(0), bad(), |rule| Some(rule.levels_default()));
    assert!(matches!(fired.as_slice(), [Notice::Firing(_)]), "{fired:?}");
    let off = alerts.look(at(1), WallTime(1), bad(), |_| None);
    assert!(matches!(off.as_slice(), [Notice::Resolved(_)]), "{off:?}");
    assert_eq!(alerts.firing().count(), 0);
}

#[test]
fn the_levels_of_every_rule_are_in_order() {
    for rule in Rule::ALL {
        let levels = rule.levels_default();
        assert!(!rule.bad().reaches(levels.clear, levels.fire), "{rule:?} would flap");
        let other = levels.with_fire(levels.fire * 3.0);
        assert!(!rule.bad().reaches(other.clear, other.fire), "{rule:?} would flap when set");
        assert!(!rule.what_to_do().is_empty());
    }
    let names: std::collections::BTreeSet<&str> = Rule::ALL.map(Rule::as_str).into();
    assert_eq!(names.len(), Rule::ALL.len());
}

#[test]
fn subjects_and_texts_are_bounded() {
    let mut alerts = Alerts::default();
    let levels = |_| Some(Levels { hold: Duration::ZERO, ..LEVELS });
    let many =
        (0..SUBJECTS_MAX + 9).map(|number| figure(Rule::LagEntries, &number.to_string(), 99.0));
    assert_eq!(alerts.look(at(0), WallTime(0), many.collect(), levels).len(), SUBJECTS_MAX);
    let long = vec![figure(Rule::LagEntries, &"é".repeat(TEXT_BYTES_MAX), 99.0)];
    let told = alerts.look(at(1), WallTime(0), long, levels);
    let Some(Notice::Firing(alert)) = told.first() else { panic!("{told:?}") };
    assert_eq!(alert.subject.len(), TEXT_BYTES_MAX);
    for second in [9, 20] {
        alerts.look(at(second), WallTime(0), Vec::new(), levels);
    }
    assert_eq!((alerts.firing().count(), alerts.recent().count()), (0, RECENT_MAX));
}

proptest! {
    /// Whatever the figures do, firing and over alternate, and what fires is what was told.
    #[test]
    fn firing_and_over_alternate(figures in prop::collection::vec(
        prop::option::of(prop_oneof![Just(0.0), Just(5.0), Just(7.0), Just(10.0), Just(12.0)]), 0..200,
    )) {
        let mut alerts = Alerts::default();
        let mut firing = false;
        for (second, value) in (0..).zip(figures) {
            let measured = value.map(|value| figure(Rule::LagEntries, "x", value)).into_iter().collect();
            for notice in alerts.look(at(second), WallTime(second), measured, |_| Some(LEVELS)) {
                let fires = matches!(notice, Notice::Firing(_));
                prop_assert_ne!(fires, firing, "told twice");
                firing = fires;
            }
            prop_assert_eq!(alerts.firing().count() == 1, firing);
        }
    }
}
