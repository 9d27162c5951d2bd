//! `journal verify`: reads everything and checks every checksum.

use std::process::ExitCode;
use std::time::Instant;

use indicatif::{BinaryBytes, HumanCount};

use super::super::operator::{DataDir, Failure, Progress, Unit, print};

pub(super) fn run(dir: &DataDir) -> Result<ExitCode, Failure> {
    let journal = dir.journal()?;
    let started = Instant::now();
    let mut progress: Option<Progress> = None;
    let mut read = 0;
    let report = journal.verify(|state| {
        read = state.bytes_total;
        progress
            .get_or_insert_with(|| Progress::new("verify", Unit::Bytes, state.bytes_total))
            .show(state.bytes, "");
    })?;
    if let Some(progress) = progress {
        progress.end();
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = (read as f64 / seconds.max(1e-6)) as u64;

    let mut damage: Vec<_> = report.damage.iter().map(ToString::to_string).collect();
    for cursor in journal.cursors()? {
        if let Err(files) = cursor.position {
            damage.push(format!("the position of route {}: {files}", cursor.name));
        }
    }
    let mut text = format!(
        "{} records, {} events, {} of bodies; read {} in {seconds:.1} s ({}/s)\n",
        HumanCount(report.records),
        HumanCount(report.events),
        BinaryBytes(report.bytes),
        BinaryBytes(read),
        BinaryBytes(rate),
    );
    for place in &damage {
        text.push_str(&format!("DAMAGED: {place}\n"));
    }
    if damage.is_empty() {
        text.push_str("All is as it was written.\n");
    }
    print(text.as_bytes())?;
    Ok(if damage.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
