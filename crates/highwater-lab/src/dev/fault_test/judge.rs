//! Which check marks are true.

use super::{CUT_FOR, Check, CutRun, SyncRun};
use crate::dev::DevNode;
use crate::dev::probe::{LinkProbes, PROBES};

/// Most content that may cross twice. What was acknowledged never does; this is what was on its way.
const RESENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Longest wait for data after the links' return.
const RETURN_SECONDS_MAX: f64 = 2.0;

/// Every demand of the test, held against what was found.
pub(super) fn judge(
    nodes: &[DevNode],
    links: &[LinkProbes],
    sync: &SyncRun,
    cut: &CutRun,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check =
        |what: String, holds: bool, found: String| checks.push(Check { what, holds, found });
    for node in nodes {
        let what = format!("{} is healthy and in sync with all its peers", node.name);
        let found = format!("{} of {} peers connected", node.connected, node.peers);
        check(what, node.healthy == Some(true) && node.in_sync, found);
    }
    for link in links {
        let what = format!("{} to {}: {PROBES} probes, all answered", link.from, link.to);
        let spread = link.spread_ms().map_or("none answered".to_owned(), |[min, middle, max]| {
            format!("{min:.2} / {middle:.2} / {max:.2} ms (least, middle, most)")
        });
        let failed = link.failures.first().map(|why| format!("; {why}")).unwrap_or_default();
        check(what, link.all_answered(), format!("{spread}{failed}"));
    }
    for arrival in &sync.arrivals {
        let rate = sync.bytes as f64 / 1e6 / arrival.seconds.max(1e-9);
        let what = format!("the first file is identical at {}", arrival.node);
        check(what, arrival.identical, format!("after {:.2} s, {rate:.0} MB/s", arrival.seconds));
    }
    judge_cut(cut, &mut check);
    checks
}

fn judge_cut(cut: &CutRun, check: &mut impl FnMut(String, bool, String)) {
    let inside = cut.before > 0 && cut.before < cut.bytes && cut.at_return < cut.bytes;
    check(
        "the cut fell inside the transfer".into(),
        inside,
        format!("at {} of {} bytes", cut.before, cut.bytes),
    );
    check(
        format!("nothing passed for {} s", CUT_FOR.as_secs()),
        cut.passed_during_cut == 0 && cut.cut_seconds >= CUT_FOR.as_secs_f64(),
        format!("{} bytes in {:.1} s", cut.passed_during_cut, cut.cut_seconds),
    );
    let resumed = cut.resumed_from;
    check(
        "it went on where it was acknowledged".into(),
        resumed.is_some_and(|at| at >= cut.before),
        resumed.map_or("it was not seen to go on".into(), |at| {
            format!("from {at}, acknowledged {}", cut.at_return)
        }),
    );
    check(
        "next to nothing was sent twice".into(),
        cut.resent_bytes <= RESENT_BYTES_MAX,
        format!("{} bytes of {}", cut.resent_bytes, cut.bytes),
    );
    check(
        format!("data flowed within {RETURN_SECONDS_MAX} s of the return"),
        cut.return_to_data_seconds <= RETURN_SECONDS_MAX,
        format!("{:.2} s", cut.return_to_data_seconds),
    );
    check(
        "the second file is identical everywhere".into(),
        cut.identical,
        format!("the rest took {:.1} s", cut.rest_seconds),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> CutRun {
        CutRun {
            from: "alice".into(),
            receiver: "carol".into(),
            bytes: 100,
            before: 40,
            at_return: 45,
            passed_during_cut: 0,
            cut_seconds: 10.0,
            return_to_data_seconds: 0.4,
            resumed_from: Some(45),
            resent_bytes: 0,
            rest_seconds: 3.0,
            progress: Vec::new(),
            identical: true,
        }
    }

    fn failed(cut: &CutRun) -> Vec<String> {
        let mut failed = Vec::new();
        judge_cut(cut, &mut |what, holds, _| {
            if !holds {
                failed.push(what);
            }
        });
        failed
    }

    #[test]
    fn every_check_of_the_cut_can_fail() {
        assert_eq!(failed(&held()), [""; 0]);
        let rows: [(&str, CutRun); 9] = [
            ("inside", CutRun { before: 0, ..held() }),
            ("inside", CutRun { before: 100, resumed_from: Some(100), ..held() }),
            ("nothing passed", CutRun { passed_during_cut: 1, ..held() }),
            ("nothing passed", CutRun { cut_seconds: 9.9, ..held() }),
            ("went on", CutRun { resumed_from: Some(0), ..held() }),
            ("went on", CutRun { resumed_from: None, ..held() }),
            ("twice", CutRun { resent_bytes: RESENT_BYTES_MAX + 1, ..held() }),
            ("flowed", CutRun { return_to_data_seconds: 2.1, ..held() }),
            ("identical", CutRun { identical: false, ..held() }),
        ];
        for (what, cut) in rows {
            let failed = failed(&cut);
            assert!(failed.len() == 1 && failed[0].contains(what), "{what}: {failed:?}");
        }
    }
}
