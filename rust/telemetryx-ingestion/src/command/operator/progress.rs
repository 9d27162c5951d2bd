//! How far a long piece of work is: a bar on a terminal, a line every few seconds elsewhere. On standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Events.
    Events,
    /// Bytes.
    Bytes,
}

impl Unit {
    fn template(self) -> &'static str {
        match self {
            Self::Events => {
                "{prefix} [{bar:30}] {human_pos} of {human_len} events  {per_sec}  {wide_msg}"
            }
            Self::Bytes => {
                "{prefix} [{bar:30}] {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {wide_msg}"
            }
        }
    }

    fn text(self, number: u64) -> String {
        match self {
            Self::Events => HumanCount(number).to_string(),
            Self::Bytes => BinaryBytes(number).to_string(),
        }
    }
}

/// Tells how far it is.
pub(crate) struct Progress {
    what: &'static str,
    unit: Unit,
    total: u64,
    /// `None` off a terminal.
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, unit: Unit, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_prefix(what);
            match ProgressStyle::with_template(unit.template()) {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        });
        Self {
            what,
            unit,
            total,
            bar,
            told: Instant::now(),
        }
    }

    /// `done` of the whole; `note` if there is something to say beside it.
    pub(crate) fn show(&mut self, done: u64, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(note.to_owned());
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            let (done, total) = (self.unit.text(done), self.unit.text(self.total));
            let events = match self.unit {
                Unit::Events => " events",
                Unit::Bytes => "",
            };
            let note = if note.is_empty() {
                String::new()
            } else {
                format!("; {note}")
            };
            eprintln!("{}: {done} of {total}{events}{note}", self.what);
        }
    }

    /// Makes way for the result.
    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_ones_that_the_bar_takes() {
        for unit in [Unit::Events, Unit::Bytes] {
            ProgressStyle::with_template(unit.template()).unwrap();
        }
    }
}
