//! `flexps status --watch`: who runs, who waits and why, which slots are taken, again and again.
//!
//! Invariant: on a terminal each picture takes the place of the one before; elsewhere one follows the other.

use super::client::Client;
use super::interrupt::Interrupt;
use super::query::state;
use super::table::{lines, memory, table};
use super::terminal::out;
use flexps_common::Result;
use flexps_common::wire::api::JobLine;
use flexps_common::wire::slaves::SlaveLine;
use flexps_master::Overview;
use std::io::IsTerminal;
use std::time::Duration;

/// How often the picture is drawn.
const EVERY: Duration = Duration::from_secs(1);
/// Most jobs that are listed.
const JOBS: usize = 40;

/// Shows the master until Ctrl-C.
pub async fn watch(client: &Client) -> Result<()> {
    let mut interrupt = Interrupt::new()?;
    let clear = if std::io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
    loop {
        let Overview { jobs, slaves, .. } = client.overview().await?;
        out(&format!("{clear}{}\n", picture(client.address(), &jobs, &slaves)))?;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = interrupt.next() => return Ok(()),
        }
    }
}

fn picture(address: &str, jobs: &[JobLine], slaves: &[SlaveLine]) -> String {
    let (slots, busy) = slaves.iter().fold((0, 0), |(slots, busy), s| (slots + s.slots, busy + s.busy));
    let mut text = format!("master at {address}: {busy} of {slots} slots busy\n\n");
    let live: Vec<&JobLine> = jobs.iter().filter(|j| !j.state.ended()).collect();
    let mut shown = table(["id", "job", "user", "priority", "state", "seconds", "waits because"], 3..4);
    for job in live.iter().take(JOBS) {
        shown.add_row([
            job.id.to_string(),
            job.name.clone(),
            job.scheduling.share().to_owned(),
            job.scheduling.priority.to_string(),
            state(job.state).to_owned(),
            format!("{:.1}", job.seconds),
            job.note.clone().unwrap_or_default(),
        ]);
    }
    text.push_str(&lines(&shown));
    if live.len() > JOBS {
        text.push_str(&format!("and {} further jobs\n", live.len() - JOBS));
    }
    let mut shown = table(["slave", "busy", "slots", "", "memory asked", "of"], 1..3);
    for slave in slaves.iter().take(JOBS) {
        let bar = 20 * slave.busy.min(slave.slots) / slave.slots.max(1);
        let bar = format!("{}{}", "#".repeat(bar as usize), ".".repeat(20 - bar as usize));
        let (asked, of) = (memory(Some(slave.memory_asked)), memory(slave.memory));
        shown.add_row([slave.name.clone(), slave.busy.to_string(), slave.slots.to_string(), bar, asked, of]);
    }
    text + "\n" + &lines(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::ids::{JobId, SlaveId};
    use flexps_common::report::State;
    use flexps_common::scheduling::Scheduling;

    #[test]
    fn a_waiting_job_is_shown_with_its_reason_and_an_ended_one_is_not() {
        let job = |id, state, note: &str| JobLine {
            id: JobId(id),
            name: "lr".into(),
            state,
            seconds: 1.5,
            objective: None,
            note: Some(note.to_owned()),
            scheduling: Scheduling { user: "ann".into(), priority: 3, ..Scheduling::default() },
        };
        let jobs = [job(1, State::Done, "over"), job(2, State::Queued, "needs 12 slots, 2 of 8 are free")];
        let name = "h1".to_owned();
        let (host, memory) = (name.clone(), Some(8 << 30));
        let slave = SlaveLine {
            id: SlaveId(1),
            host,
            name,
            slots: 8,
            busy: 6,
            memory,
            memory_asked: 5 << 30,
            silent: 0.0,
            pid: 1,
        };
        let text = picture("m:1", &jobs, &[slave]);
        assert!(text.contains("6 of 8 slots busy") && text.contains("needs 12 slots, 2 of 8 are free"), "{text}");
        assert!(text.contains("ann") && text.contains("###############.....") && !text.contains("over"), "{text}");
        assert!(text.contains("5.0 GiB") && text.contains("8.0 GiB"), "{text}");
    }
}
