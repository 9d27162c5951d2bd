//! `file` and `stdout`: events as NDJSON, in the form of `POST /ingest`, for eyes and for what reads files.
//!
//! A file's lines are on disk before the route's cursor moves past them. After a kill a line that was cut short is removed,
//! and what was delivered since the last commit comes again: readers can tell by the id.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;
use telemetryx_common::{Timestamp, json};

use super::{DeliverError, Sink, SinkContext, SinkFactory};
use crate::clock;
use crate::config::{ByteSize, Duration};
use crate::plugin::{PluginError, settings};
use crate::route::EventBatch;

/// A torn line is looked for this far from the end at a time.
const LOOK_BACK: usize = 64 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    path: PathBuf,
    #[serde(default)]
    rotate: RotateConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotateConfig {
    bytes: Option<ByteSize>,
    age: Option<Duration>,
}

struct FileSink {
    path: PathBuf,
    rotate: RotateConfig,
    open: Mutex<Option<OpenFile>>,
    /// Whether the last rename failed: that is said once.
    is_stuck: AtomicBool,
}

struct OpenFile {
    file: File,
    /// Behind the last whole batch.
    length: u64,
    /// When its first line was written.
    since: Timestamp,
}

fn construct_file(
    parameters: toml::Value,
    _context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    let config: FileConfig = settings(parameters)?;
    if config.path.file_name().is_none() {
        let message = format!("path: `{}` names no file", config.path.display());
        return Err(PluginError::Settings(message));
    }
    Ok(Box::new(FileSink {
        path: config.path,
        rotate: config.rotate,
        open: Mutex::new(None),
        is_stuck: AtomicBool::new(false),
    }))
}

inventory::submit! {
    SinkFactory {
        kind: "file",
        constructor: construct_file,
        flush_interval: std::time::Duration::from_millis(200),
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let lines = lines(batch);
        tokio::task::block_in_place(|| self.with_file(|open| open.append(&lines)))
    }

    async fn flush(&self) -> Result<(), DeliverError> {
        tokio::task::block_in_place(|| {
            let mut open = self.open.lock();
            let Some(file) = open.as_mut() else {
                return Ok(());
            };
            if let Err(error) = file.file.sync_data() {
                *open = None;
                return Err(self.failed(&error));
            }
            if self.rotate(file, clock::now()) {
                *open = None;
            }
            Ok(())
        })
    }

    async fn check(&self) -> Result<(), DeliverError> {
        tokio::task::block_in_place(|| self.with_file(|_| Ok(())))
    }
}

impl FileSink {
    /// Runs `work` on the file, opening it if needed. After an error it is opened anew: it may have been moved, or its
    /// disk have come back.
    fn with_file(
        &self,
        work: impl FnOnce(&mut OpenFile) -> io::Result<()>,
    ) -> Result<(), DeliverError> {
        let mut open = self.open.lock();
        let done = match open.take() {
            Some(file) => Ok(file),
            None => OpenFile::open(&self.path),
        };
        done.and_then(|mut file| {
            work(&mut file)?;
            *open = Some(file);
            Ok(())
        })
        .map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> DeliverError {
        DeliverError::Retryable(format!("{}: {error}", self.path.display()))
    }

    /// Renames the file if it is large or old enough, and says whether another is to be begun. If it cannot be renamed it goes
    /// on growing: its lines are on disk, and an error would bring them again.
    fn rotate(&self, open: &OpenFile, now: Timestamp) -> bool {
        let large = self
            .rotate
            .bytes
            .is_some_and(|most| open.length >= most.bytes());
        let old = self.rotate.age.is_some_and(|most| {
            let most = std::time::Duration::from(most).as_nanos();
            i128::from(now.unix_nanos()) - i128::from(open.since.unix_nanos()) >= most as i128
        });
        if open.length == 0 || !(large || old) {
            return false;
        }
        let path = self.path.display();
        match std::fs::rename(&self.path, unused_name(&self.path, now)) {
            Ok(()) => {
                if self.is_stuck.swap(false, Ordering::Relaxed) {
                    tracing::info!(%path, "the file can be renamed again");
                }
                true
            }
            // Somebody else has renamed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                if !self.is_stuck.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%path, %error, "the file cannot be renamed, and goes on growing");
                }
                false
            }
        }
    }
}

/// The path with the time behind it, as `events.ndjson.20260131T235959Z`, and a number where that is taken.
fn unused_name(path: &Path, now: Timestamp) -> PathBuf {
    let digits: String = now
        .to_string()
        .chars()
        .filter(|c| !"-:".contains(*c))
        .collect();
    let time = digits
        .split('.')
        .next()
        .unwrap_or_default()
        .trim_end_matches('Z');
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{time}Z"));
    let mut number = 1;
    let mut candidate = PathBuf::from(&name);
    while candidate.exists() {
        number += 1;
        let mut numbered = name.clone();
        numbered.push(format!("-{number}"));
        candidate = numbered.into();
    }
    candidate
}

impl OpenFile {
    /// Opens the file for appending, without the torn line that a crash may have left at its end.
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        // That the file is there has to survive a power cut as well as what is in it.
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
        let metadata = file.metadata()?;
        let length = behind_last_line(&mut file, metadata.len())?;
        if length < metadata.len() {
            tracing::warn!(path = %path.display(), bytes = metadata.len() - length, "a torn last line was removed");
            file.set_len(length)?;
        }
        let begun = metadata.created().or_else(|_| metadata.modified());
        let begun = begun
            .ok()
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let since = match begun.and_then(|since| i64::try_from(since.as_nanos()).ok()) {
            Some(nanos) if length > 0 => Timestamp::from_unix_nanos(nanos),
            _ => clock::now(),
        };
        Ok(Self {
            file,
            length,
            since,
        })
    }

    /// Appends whole lines, or nothing.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.length == 0 {
            self.since = clock::now();
        }
        self.file.write_all(lines).inspect_err(|_| {
            // What was written of it would be a torn line, or come twice.
            self.file.set_len(self.length).ok();
        })?;
        self.length += lines.len() as u64;
        Ok(())
    }
}

/// Where the last whole line of `file`, `length` bytes long, ends.
fn behind_last_line(file: &mut File, length: u64) -> io::Result<u64> {
    let mut end = length;
    let mut buffer = vec![0; LOOK_BACK];
    while end > 0 {
        let start = end.saturating_sub(LOOK_BACK as u64);
        let part = buffer.get_mut(..(end - start) as usize).unwrap_or_default();
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(place) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn lines(batch: &EventBatch<'_>) -> Vec<u8> {
    let mut lines = Vec::new();
    for event in batch.events() {
        json::write_line(event, &mut lines);
    }
    lines
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StdoutConfig {}

struct StdoutSink;

fn construct_stdout(
    parameters: toml::Value,
    _context: SinkContext<'_>,
) -> Result<Box<dyn Sink>, PluginError> {
    settings::<StdoutConfig>(parameters)?;
    Ok(Box::new(StdoutSink))
}

inventory::submit! {
    SinkFactory {
        kind: "stdout",
        constructor: construct_stdout,
        flush_interval: std::time::Duration::from_millis(5),
    }
}

#[async_trait]
impl Sink for StdoutSink {
    async fn deliver(&self, batch: &EventBatch<'_>) -> Result<(), DeliverError> {
        let lines = lines(batch);
        let written = tokio::task::block_in_place(|| {
            let mut out = io::stdout().lock();
            out.write_all(&lines).and_then(|()| out.flush())
        });
        written.map_err(|error| DeliverError::Retryable(format!("standard output: {error}")))
    }

    async fn check(&self) -> Result<(), DeliverError> {
        Ok(())
    }
}
