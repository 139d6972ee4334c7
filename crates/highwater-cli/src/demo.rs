//! The main job on one machine; played and judged by `highwater-lab`.

use highwater_lab::demo::{self, DemoOptions};

use crate::failure::{Code, Failure};

/// Plays the demo, and succeeds only if everything held.
pub(crate) fn demo(json: bool, keep: bool) -> Result<(), Failure> {
    let exe = std::env::current_exe()
        .map_err(|e| Failure::failed(format!("cannot find this program to start nodes: {e}")))?;
    let report = demo::run(DemoOptions { exe, json, keep })
        .map_err(|e| Failure::failed(format!("the demo could not be carried out: {e:#}")))?;
    if report.held { Ok(()) } else { Err(Failure::Shown(Code::Failed)) }
}
