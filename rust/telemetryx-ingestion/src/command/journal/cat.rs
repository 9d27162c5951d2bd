//! `journal cat`: events as NDJSON. One buffer, written whenever it is full; nothing is copied but into it.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use telemetryx_common::{Event, json, wire};
use telemetryx_journal::{Entry, GapReason};

use super::super::operator::{DataDir, Failure, drives_terminal, resolve};
use crate::control::Moment;

/// Bytes of bodies read at a time.
const READ_BYTES: usize = 1 << 20;
/// Written when so much has come together.
const WRITE_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, Args)]
pub(super) struct CatArgs {
    /// The first event: an offset, or the time (RFC 3339) at or after which it was accepted [default: the oldest]
    #[arg(long, value_name = "T|OFFSET")]
    from: Option<Moment>,
    /// The event to stop before, given likewise [default: the end]
    #[arg(long, value_name = "T|OFFSET")]
    to: Option<Moment>,
    /// At most this many events
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
    /// Begin each event with its `offset`
    #[arg(long)]
    with_offsets: bool,
}

pub(super) fn run(dir: &DataDir, args: &CatArgs) -> Result<ExitCode, Failure> {
    let journal = dir.journal()?;
    let from = args.from.map_or_else(
        || Ok(journal.start()),
        |from| resolve(from, &journal, "--from"),
    )?;
    let to = args
        .to
        .map_or_else(|| Ok(journal.end()), |to| resolve(to, &journal, "--to"))?;
    let mut reader = journal.reader(from)?;
    let mut printer = Printer {
        out: io::stdout().lock(),
        buffer: Vec::with_capacity(2 * WRITE_BYTES),
        from: from.get(),
        to: to.get(),
        left: args.limit.unwrap_or(u64::MAX),
        with_offsets: args.with_offsets,
        on_terminal: io::stdout().is_terminal(),
    };
    let mut damaged = false;
    'reading: while reader.position() < to && printer.left > 0 {
        let chunk = reader.next(READ_BYTES)?;
        if chunk.is_empty() {
            break;
        }
        for entry in chunk.entries {
            let outcome = match entry {
                Entry::Record(record) => printer.record(record.first.get(), &record.body),
                Entry::Gap { from, .. } if from >= to => break 'reading,
                Entry::Gap { from, to, reason } => {
                    let why = match reason {
                        GapReason::Expired => "have expired",
                        GapReason::Damaged => {
                            damaged = true;
                            "are damaged; `telemetryx journal verify` says where"
                        }
                    };
                    eprintln!("telemetryx: events {from} up to {to} {why}");
                    Ok(())
                }
            };
            match outcome {
                Ok(()) => {}
                Err(error) => return ended_early(error),
            }
        }
    }
    if let Err(error) = printer.flush() {
        return ended_early(error);
    }
    Ok(if damaged {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Whoever reads may have had enough (`| head`).
fn ended_early(error: io::Error) -> Result<ExitCode, Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::failed(format!("standard output: {error}")))
}

struct Printer<W> {
    out: W,
    buffer: Vec<u8>,
    /// The first offset wanted; a record may begin before it.
    from: u64,
    /// The offset behind the last one wanted.
    to: u64,
    /// How many events may still be printed.
    left: u64,
    with_offsets: bool,
    /// What would drive the terminal is escaped, as JSON allows; the text says the same.
    on_terminal: bool,
}

/// Lines of JSON with escapes for what a terminal would obey. Outside of strings JSON has no such characters but blanks.
fn escaped(lines: &str) -> String {
    let mut out = String::with_capacity(lines.len());
    for c in lines.chars() {
        if drives_terminal(c) && !matches!(c, '\n' | '\r' | '\t') {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

impl<W: Write> Printer<W> {
    fn record(&mut self, first: u64, body: &[u8]) -> io::Result<()> {
        for (offset, event) in (first..self.to).zip(wire::events(body)) {
            if self.left == 0 {
                break;
            }
            if offset < self.from {
                continue;
            }
            match event {
                Ok(event) => self.event(offset, &event),
                Err(error) => eprintln!("telemetryx: event {offset} cannot be decoded: {error}"),
            }
            self.left -= 1;
            if self.buffer.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn event(&mut self, offset: u64, event: &Event<'_>) {
        if !self.with_offsets {
            return json::write_line(event, &mut self.buffer);
        }
        self.buffer.extend_from_slice(b"{\"offset\":");
        json::write_number(offset, &mut self.buffer);
        let start = self.buffer.len();
        json::write_line(event, &mut self.buffer);
        // The event's own opening brace; what follows is never empty.
        if let Some(brace) = self.buffer.get_mut(start) {
            *brace = b',';
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.on_terminal {
            self.buffer = escaped(&String::from_utf8_lossy(&self.buffer)).into_bytes();
        }
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use telemetryx_common::Timestamp;

    use super::*;

    #[test]
    fn only_what_was_asked_for_is_printed_with_its_offset() {
        let now = Timestamp::from_unix_nanos(5_000_000_000);
        let mut body = Vec::new();
        for id in ["a", "b", "c", "d"] {
            wire::encode_event(&Event::new(now), id, &mut body);
        }
        let mut printer = Printer {
            out: Vec::new(),
            buffer: Vec::new(),
            from: 11,
            to: 14,
            left: 2,
            with_offsets: true,
            on_terminal: false,
        };
        printer.record(10, &body).unwrap();
        printer.flush().unwrap();
        let lines: Vec<serde_json::Value> = printer
            .out
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let seen: Vec<_> = lines
            .iter()
            .map(|line| {
                (
                    line["offset"].as_u64().unwrap(),
                    line["id"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(seen, [(11, "b"), (12, "c")]);
    }

    #[test]
    fn on_a_terminal_nothing_drives_it_and_the_json_says_the_same() {
        let line = "{\"a\":\"\u{9b}31m\u{202e}é\"}\n";
        let shown = escaped(line);
        assert_eq!(shown, "{\"a\":\"\\u009b31m\\u202eé\"}\n");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(line));
    }
}
