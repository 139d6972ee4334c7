//! What an audit must find, and what it must let pass.

use super::*;

/// Contents by letter: lower case was written, upper case was not.
fn content(letter: char) -> Content {
    Content::of(letter.to_string().as_bytes())
}

fn known(content_: Content) -> bool {
    ('a'..='z').any(|letter| content(letter) == content_)
}

fn files(listed: &[(&str, char)]) -> Files {
    listed.iter().map(|(path, letter)| ((*path).to_owned(), content(*letter))).collect()
}

/// Changes in the order of their listing: (node, path, was, now), `-` for nothing.
fn changes(listed: &[(usize, &str, char, char)]) -> Vec<Change> {
    let some = |letter: char| (letter != '-').then(|| content(letter));
    let change = |(at, &(node, path, was, now)): (usize, &(usize, &str, char, char))| {
        let (began, ended) = (2 * at as u64, 2 * at as u64 + 1);
        let path = path.to_owned();
        let (was, now) = (some(was), some(now));
        Change { op: began, node, path, was, now, sure: true, began, ended }
    };
    listed.iter().enumerate().map(change).collect()
}

fn rules(before: &Files, changes: &[Change], after: &Files) -> Vec<Rule> {
    let disturbed = BTreeSet::new();
    let round = Round { before, changes, after, disturbed: &disturbed, clocks_differ: false };
    let verdict = judge(&round, known, |_| false);
    let rules: BTreeSet<Rule> = verdict.violations.iter().map(|found| found.rule).collect();
    rules.into_iter().collect()
}

const COPY: &str = "f.conflict-20261123-101112-abcdefgh.txt";

/// A row: why, the files before, the changes, the files after.
type Row<'a> =
    (&'a str, &'a [(&'a str, char)], &'a [(usize, &'a str, char, char)], &'a [(&'a str, char)]);

#[test]
fn good_histories_pass() {
    let rows: [Row<'_>; 12] = [
        ("nothing happened", &[("f.txt", 'a')], &[], &[("f.txt", 'a')]),
        ("an edit", &[("f.txt", 'a')], &[(0, "f.txt", 'a', 'b')], &[("f.txt", 'b')]),
        (
            "edits in a row on one node",
            &[],
            &[(0, "f.txt", '-', 'a'), (0, "f.txt", 'a', 'b'), (0, "f.txt", 'b', 'c')],
            &[("f.txt", 'c')],
        ),
        ("a delete", &[("f.txt", 'a')], &[(1, "f.txt", 'a', '-')], &[]),
        (
            "one node goes on from another",
            &[],
            &[(0, "f.txt", '-', 'a'), (1, "f.txt", 'a', 'b')],
            &[("f.txt", 'b')],
        ),
        (
            "two edits of one version: both are kept",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', 'b'), (1, "f.txt", 'a', 'c')],
            &[("f.txt", 'c'), (COPY, 'b')],
        ),
        (
            "an edit beats a delete",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', '-'), (1, "f.txt", 'a', 'b')],
            &[("f.txt", 'b')],
        ),
        ("both delete", &[("f.txt", 'a')], &[(0, "f.txt", 'a', '-'), (1, "f.txt", 'a', '-')], &[]),
        (
            "a conflict copy is removed by one who saw it",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', 'b'), (1, "f.txt", 'a', 'c'), (1, COPY, 'b', '-')],
            &[("f.txt", 'c')],
        ),
        (
            "a replaced version stays as a copy, which is more than needed",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', 'b'), (1, "f.txt", 'a', 'c'), (0, "f.txt", 'b', 'd')],
            &[("f.txt", 'd'), (COPY, 'c'), ("f.conflict-20261123-101113-abcdefgh.txt", 'b')],
        ),
        (
            "a move",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', '-'), (0, "g.txt", '-', 'a')],
            &[("g.txt", 'a')],
        ),
        (
            "a move here, an edit there: both are kept",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', '-'), (0, "g.txt", '-', 'a'), (1, "f.txt", 'a', 'b')],
            &[("g.txt", 'a'), ("f.txt", 'b')],
        ),
    ];
    for (why, before, history, after) in rows {
        let found = rules(&files(before), &changes(history), &files(after));
        assert_eq!(found, [], "{why}");
    }
}

const BAD: [(Row<'static>, Rule); 16] = [
    (
        (
            "an older version stood there for a while",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', 'b'), (0, "f.txt", 'a', 'c')],
            &[("f.txt", 'c')],
        ),
        Rule::Reverted,
    ),
    (("an untouched file is gone", &[("f.txt", 'a')], &[], &[]), Rule::Lost),
    (
        (
            "an untouched file is another",
            &[("f.txt", 'a'), ("g", 'b')],
            &[],
            &[("f.txt", 'b'), ("g", 'b')],
        ),
        Rule::Untouched,
    ),
    (("a write is gone", &[], &[(0, "f.txt", '-', 'a')], &[]), Rule::Lost),
    (
        (
            "an edit went back",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', 'b')],
            &[("f.txt", 'a'), (COPY, 'b')],
        ),
        Rule::Reverted,
    ),
    (
        ("a delete came back", &[("f.txt", 'a')], &[(0, "f.txt", 'a', '-')], &[("f.txt", 'a')]),
        Rule::Resurrected,
    ),
    (
        (
            "two deletes came back",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', '-'), (1, "f.txt", 'a', '-')],
            &[("f.txt", 'a')],
        ),
        Rule::Reverted,
    ),
    (("nobody wrote that", &[], &[(0, "f.txt", '-', 'a')], &[("f.txt", 'A')]), Rule::Invented),
    (("nobody put that there", &[("g", 'a')], &[], &[("g", 'a'), ("f.txt", 'a')]), Rule::Invented),
    (
        (
            "one side of a conflict is missing",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', 'b'), (1, "f.txt", 'a', 'c')],
            &[("f.txt", 'c')],
        ),
        Rule::Lost,
    ),
    (
        (
            "the last writer won over an edit that it never saw",
            &[],
            &[(0, "f.txt", '-', 'a'), (1, "f.txt", '-', 'b'), (1, "f.txt", 'b', 'c')],
            &[("f.txt", 'c')],
        ),
        Rule::Lost,
    ),
    (
        (
            "a delete beat a concurrent edit",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', 'b'), (1, "f.txt", 'a', '-')],
            &[],
        ),
        Rule::Lost,
    ),
    (
        (
            "a conflict of one",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', 'b')],
            &[("f.txt", 'b'), (COPY, 'a')],
        ),
        Rule::FalseConflict,
    ),
    (
        (
            "a conflict copy of something else",
            &[("f.txt", 'a'), ("g", 'x')],
            &[(0, "f.txt", 'a', 'b'), (1, "f.txt", 'a', 'c')],
            &[
                ("f.txt", 'c'),
                (COPY, 'b'),
                ("f.conflict-20261123-101113-abcdefgh.txt", 'x'),
                ("g", 'x'),
            ],
        ),
        Rule::Invented,
    ),
    (("a write is elsewhere", &[], &[(0, "f.txt", '-', 'a')], &[("g", 'a')]), Rule::Misplaced),
    (
        (
            "a moved file is lost to an edit of its old name",
            &[("f.txt", 'a')],
            &[(0, "f.txt", 'a', '-'), (0, "g.txt", '-', 'a'), (1, "f.txt", 'a', 'b')],
            &[("f.txt", 'b')],
        ),
        Rule::Lost,
    ),
];

#[test]
fn a_copy_that_was_removed_may_come_again_only_where_its_version_won_over_a_delete() {
    let before = files(&[("f.txt", 'a')]);
    let after = files(&[("f.txt", 'c'), (COPY, 'b')]);
    let edits = [(0, "f.txt", 'a', 'b'), (1, "f.txt", 'a', 'c'), (1, COPY, 'b', '-')];
    assert_eq!(rules(&before, &changes(&edits), &after), [Rule::Resurrected]);
    let with_delete = [&edits[..], &[(2, "f.txt", 'c', '-')]].concat();
    assert_eq!(rules(&before, &changes(&with_delete), &after), []);
}

#[test]
fn bad_histories_are_flagged() {
    for ((why, before, history, after), rule) in BAD {
        let found = rules(&files(before), &changes(history), &files(after));
        assert!(found.contains(&rule), "{why}: {found:?}");
    }
}

/// A client that cannot know whether it wrote asks for nothing, and explains what is found.
#[test]
fn what_a_client_cannot_know_is_accepted_both_ways() {
    let mut history = changes(&[(0, "live", 'a', 'b')]);
    history[0].sure = false;
    for after in [&[("live", 'b')][..], &[("live", 'a')], &[]] {
        assert_eq!(rules(&files(&[("live", 'a')]), &history, &files(after)), [], "{after:?}");
    }
    assert_eq!(
        rules(&files(&[("live", 'a')]), &history, &files(&[("live", 'c')])),
        [Rule::Invented]
    );
}

#[test]
fn a_conflict_copy_says_what_it_lost_to() {
    assert_eq!(conflict_of(&format!("a/{COPY}")).as_deref(), Some("a/f.txt"));
    assert_eq!(conflict_of("a/f.conflict-of-interest.txt"), None);
    let twice = "f.conflict-20261123-101112-abcdefgh.conflict-20261123-101113-abcdefgh";
    assert_eq!(origins(twice).count(), 3);
}
