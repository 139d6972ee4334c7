//! Commands that ask the running daemon: `status`, `transfers`, `log`, `conflicts`
//! and `alerts`.

use highwater::control::{Client, Next, Request};
use highwater::home::Home;
use highwater::report::{AlertsReport, ConflictRow, LogRow, Status, Transfer};
use highwater_core::{Seq, ShareName};
use serde_json::json;

use crate::bars::Bars;
use crate::failure::Failure;
use crate::output::Output;
use crate::show;

/// Shows how everything stands, or one share.
pub(crate) fn status(
    home: &Home,
    share: Option<&ShareName>,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut status: Status = Client::new(home).one(&Request::Status)?;
    if let Some(name) = share {
        status.shares.retain(|share| share.name == *name);
        status.transfers.retain(|transfer| transfer.share == *name);
        if status.shares.is_empty() {
            return Err(Failure::failed(format!(
                "there is no share named {name}; see `highwater share list`"
            )));
        }
    }
    if output.is_json() { output.json(&status) } else { show::status(&status, output) }
}

/// Shows the contents in flight, once or as they change.
pub(crate) fn transfers(home: &Home, follow: bool, output: &mut Output) -> Result<(), Failure> {
    let mut bars = (follow && output.is_terminal()).then(Bars::new);
    each(home, &Request::Transfers { follow }, |transfers: Vec<Transfer>| {
        match &mut bars {
            Some(bars) => bars.show(&transfers),
            None if output.is_json() => output.json(&json!({"transfers": transfers}))?,
            None => show::transfers(&transfers, output)?,
        }
        output.finish()
    })
}

/// Shows a change log, once or as it grows.
pub(crate) fn log(
    home: &Home,
    share: &ShareName,
    since: u64,
    follow: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let request = Request::Log { share: share.clone(), since: Seq(since), follow };
    if output.is_json() && !follow {
        let mut changes = Vec::new();
        each(home, &request, |row: LogRow| {
            changes.push(row);
            Ok(())
        })?;
        return output.json(&json!({"share": share, "changes": changes}));
    }
    if !output.is_json() {
        show::log_heading(output)?;
    }
    each(home, &request, |row: LogRow| {
        if output.is_json() {
            output.json(&row)?
        } else {
            show::log_row(&row, output)?
        }
        if follow { output.finish() } else { Ok(()) }
    })
}

/// Lists the preserved losing versions.
pub(crate) fn conflicts(
    home: &Home,
    share: Option<ShareName>,
    output: &mut Output,
) -> Result<(), Failure> {
    let rows: Vec<ConflictRow> = Client::new(home).one(&Request::Conflicts { share })?;
    if output.is_json() {
        output.json(&json!({"conflicts": rows}))
    } else {
        show::conflicts(&rows, output)
    }
}

/// Shows what fires, and what was resolved lately.
pub(crate) fn alerts(home: &Home, output: &mut Output) -> Result<(), Failure> {
    let report: AlertsReport = Client::new(home).one(&Request::Alerts)?;
    if output.is_json() { output.json(&report) } else { show::alerts(&report, output) }
}

/// Takes every item of an answer; the first one that cannot be shown ends it.
fn each<T: serde::de::DeserializeOwned>(
    home: &Home,
    request: &Request,
    mut take: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failure = None;
    Client::new(home).each(request, |item| match take(item) {
        Ok(()) => Next::Continue(()),
        Err(e) => {
            failure = Some(e);
            Next::Break(())
        }
    })?;
    failure.map_or(Ok(()), Err)
}
