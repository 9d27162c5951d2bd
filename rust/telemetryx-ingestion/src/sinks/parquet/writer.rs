//! Which events go into which piece, and how pieces get into the store.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use parquet::errors::ParquetError;

use super::names;
use super::piece::Piece;
use super::plan::{Plan, PlannedFile, PlannedPiece};
use super::store::Store;
use crate::route::{EventBatch, Letter, Origin, Stretch};

/// Files of what is kept. With more of them it is written early: each is an upload of its own.
const FILES_MAX: usize = 1000;
/// Files that are under way to the store at the same time.
const FILES_AT_ONCE: usize = 4;
/// How long the rest of a piece that was begun before a restart is waited for. It is in the journal: it comes at once, unless
/// the route does not want it any more.
const REBUILD_WAIT: Duration = Duration::from_secs(60);

/// When what is kept is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Roll {
    pub(super) bytes: usize,
    pub(super) age: Duration,
}

/// What a route has taken in since its last commit.
pub(super) struct Writer {
    route: String,
    roll: Roll,
    /// The log whose plan was read.
    log: Option<u128>,
    /// Pieces that were planned before a restart, and may have been written in part. They come again.
    planned: VecDeque<PlannedPiece>,
    /// Pieces whose last event is in.
    closed: Vec<Growing>,
    current: Option<Growing>,
    /// When the first event of it came.
    since: Option<Instant>,
    due: Option<Instant>,
    sealed: Option<Sealed>,
    /// Why all that is kept is of no use.
    broken: Option<String>,
}

#[derive(Default)]
struct Growing {
    piece: Piece,
    /// What it was before a restart.
    planned: Option<PlannedPiece>,
}

/// Files that are ready, and how far they are on their way.
struct Sealed {
    /// Until it is in the store.
    plan: Option<Vec<u8>>,
    files: Vec<ReadyFile>,
    stale: Vec<String>,
}

struct ReadyFile {
    path: String,
    /// Until it is in the store.
    content: Option<Vec<Bytes>>,
}

impl Writer {
    pub(super) fn new(route: &str, roll: Roll) -> Self {
        Self {
            route: route.to_owned(),
            roll,
            log: None,
            planned: VecDeque::new(),
            closed: Vec::new(),
            current: None,
            since: None,
            due: None,
            sealed: None,
            broken: None,
        }
    }

    /// Until when it keeps what it has; `None` if it has nothing.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Finds out what an earlier run was about to write of this log, from `first` on.
    ///
    /// # Errors
    /// The store's words: nothing may be taken before it is known.
    pub(super) async fn open(&mut self, store: &Store, stretch: Stretch) -> Result<(), String> {
        if self.log == Some(stretch.log) {
            return Ok(());
        }
        let path = names::plan(&self.route, stretch.log);
        let plan = match store.read(&path).await? {
            Some(bytes) => Plan::from_json(&bytes).map_err(|error| format!("`{path}`: {error}"))?,
            None => Plan::new(Vec::new()),
        };
        let mut planned: Vec<_> = plan
            .pieces
            .into_iter()
            .filter(|piece| piece.end > stretch.first)
            .collect();
        planned.sort_by_key(|piece| piece.first);
        store.remove_torn(&path);
        for piece in &planned {
            tracing::info!(
                route = self.route,
                first = piece.first,
                end = piece.end,
                "a piece that was planned before the restart is written again"
            );
            for file in &piece.files {
                store.remove_torn(&file.path);
            }
        }
        self.planned = planned.into();
        self.log = Some(stretch.log);
        Ok(())
    }

    /// Takes in a batch of the log that was opened. It takes time that depends on the batch alone.
    ///
    /// # Errors
    /// If what was kept before is not written yet.
    pub(super) fn take(
        &mut self,
        batch: &EventBatch<'_>,
        stretch: Stretch,
    ) -> Result<(), &'static str> {
        if self.sealed.is_some() {
            return Err("what came before is not written yet");
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.since.get_or_insert_with(Instant::now);
        if let Err(error) = self.add(batch, stretch) {
            self.broken = Some(format!("events cannot be encoded: {error}"));
        }
        self.due = Some(self.next_due());
        Ok(())
    }

    fn add(&mut self, batch: &EventBatch<'_>, stretch: Stretch) -> Result<(), ParquetError> {
        for (origin, event) in batch.iter() {
            if let Origin::Journal(offset) = origin {
                self.turn_to(offset);
            }
            let growing = self.current.get_or_insert_default();
            growing.piece.push(origin, stretch.end, event)?;
        }
        let complete = |growing: &Growing| match &growing.planned {
            Some(planned) => growing.piece.range().1 >= planned.end,
            None => false,
        };
        if self.current.as_ref().is_some_and(complete) {
            self.close();
        }
        Ok(())
    }

    /// Ends pieces and begins those that were planned, where the log is cut.
    fn turn_to(&mut self, offset: u64) {
        let planned = self.current.as_ref().and_then(|it| it.planned.as_ref());
        if planned.is_some_and(|piece| piece.end <= offset) {
            self.close();
        }
        while self
            .planned
            .front()
            .is_some_and(|piece| piece.end <= offset)
        {
            self.planned.pop_front();
        }
        if self
            .planned
            .front()
            .is_some_and(|piece| piece.first <= offset)
        {
            self.close();
            self.current = Some(Growing {
                planned: self.planned.pop_front(),
                ..Growing::default()
            });
        }
    }

    fn close(&mut self) {
        self.closed.extend(self.current.take());
    }

    fn growing(&self) -> impl Iterator<Item = &Growing> {
        self.closed.iter().chain(&self.current)
    }

    /// True while a piece of before the restart is not read again as a whole.
    pub(super) fn is_rebuilding(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|growing| growing.planned.is_some())
    }

    fn next_due(&self) -> Instant {
        let now = Instant::now();
        let bytes: usize = self.growing().map(|growing| growing.piece.bytes()).sum();
        let files: usize = self.growing().map(|growing| growing.piece.files()).sum();
        let rebuilt = self.closed.iter().any(|growing| growing.planned.is_some());
        if self.broken.is_some() {
            now
        } else if self.is_rebuilding() {
            // It fitted before, and `roll.bytes` may have been larger then: it is much larger only if the route wants more
            // than before.
            let planned = self
                .growing()
                .filter_map(|growing| growing.planned.as_ref());
            let before: usize = planned.map(|piece| piece.bytes).sum();
            let bytes_max = self.roll.bytes.max(before).saturating_mul(4);
            match bytes >= bytes_max || files >= 4 * FILES_MAX {
                true => now,
                false => now + REBUILD_WAIT,
            }
        } else if rebuilt || bytes >= self.roll.bytes || files >= FILES_MAX {
            now
        } else {
            self.since.unwrap_or(now) + self.roll.age
        }
    }

    /// Writes what is kept, and says that nothing is. It goes on where it failed.
    ///
    /// # Errors
    /// The store's words: then all is still kept, unless [`due`](Self::due) says that nothing is.
    pub(super) async fn flush(&mut self, store: &Store) -> Result<(), String> {
        if self.sealed.is_none() {
            let now = Instant::now();
            if self.broken.is_none()
                && self.is_rebuilding()
                && self.due.is_some_and(|due| now < due)
            {
                return Err("a piece that was begun before the restart is not whole yet".into());
            }
            let sealed = match self.broken.take() {
                Some(why) => Err(why),
                None => tokio::task::block_in_place(|| self.seal()),
            };
            match sealed {
                Ok(sealed) => self.sealed = sealed,
                Err(why) => {
                    // The route goes back to its last commit.
                    *self = Self::new(&self.route, self.roll);
                    return Err(why);
                }
            }
        }
        if let (Some(sealed), Some(log)) = (&mut self.sealed, self.log) {
            sealed.write(store, &names::plan(&self.route, log)).await?;
        }
        self.sealed = None;
        self.since = None;
        self.due = None;
        Ok(())
    }

    /// Finishes the files, and plans them.
    fn seal(&mut self) -> Result<Option<Sealed>, String> {
        self.close();
        let Some(log) = self.log.filter(|_| !self.closed.is_empty()) else {
            return Ok(None);
        };
        let (mut plan, mut files, mut stale) = (Vec::new(), Vec::new(), Vec::new());
        for growing in self.closed.drain(..) {
            let (first, end) = growing.piece.range();
            let name = names::piece(&self.route, log, first, end, growing.piece.check());
            let bytes = growing.piece.bytes();
            let finished = growing.piece.finish();
            let mut planned = PlannedPiece {
                name,
                first,
                end,
                bytes,
                files: Vec::new(),
                stale: Vec::new(),
            };
            for file in finished.map_err(|error| format!("events cannot be encoded: {error}"))? {
                let path = format!("{}/{}", file.folder, planned.name);
                planned.files.push(PlannedFile {
                    path: path.clone(),
                    rows: file.rows,
                });
                files.push(ReadyFile {
                    path,
                    content: Some(file.content),
                });
            }
            match growing.planned {
                // The same events of the log. Some that processors made may have come elsewhere now.
                Some(before) if before.name == planned.name => {
                    planned.stale = before.all_but(&planned.files);
                    stale.extend_from_slice(&planned.stale);
                }
                Some(before) => tracing::warn!(
                    route = self.route,
                    before = before.name,
                    now = planned.name,
                    "other events than before the restart: filters or processors have changed, or the journal is an old \
                     copy; rows of the piece before may be there twice, with the same ids"
                ),
                None => {}
            }
            plan.push(planned);
        }
        plan.extend(self.planned.iter().cloned());
        Ok(Some(Sealed {
            plan: Some(Plan::new(plan).to_json()?),
            files,
            stale,
        }))
    }
}

impl Sealed {
    async fn write(&mut self, store: &Store, plan: &str) -> Result<(), String> {
        if let Some(json) = &self.plan {
            store.write(plan, &[Bytes::copy_from_slice(json)]).await?;
            self.plan = None;
        }
        let mut writes = Vec::new();
        for file in &mut self.files {
            writes.push(file.write(store));
        }
        futures_util::stream::iter(writes)
            .buffer_unordered(FILES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        while let Some(path) = self.stale.last() {
            store.remove(path).await?;
            self.stale.pop();
        }
        Ok(())
    }
}

impl ReadyFile {
    async fn write(&mut self, store: &Store) -> Result<(), String> {
        if let Some(content) = &self.content {
            store.write(&self.path, content).await?;
            self.content = None;
        }
        Ok(())
    }
}

/// Writes the events of a dead letter at once, into files that are the same however often it comes.
///
/// # Errors
/// The store's words, or the encoder's.
pub(super) async fn write_letter(
    route: &str,
    store: &Store,
    batch: &EventBatch<'_>,
    letter: Letter,
) -> Result<(), String> {
    let encode = || {
        let mut piece = Piece::default();
        for (origin, event) in batch.iter() {
            piece.push(origin, 0, event)?;
        }
        let name = names::letter(route, letter.log, letter.number, piece.check());
        Ok::<_, ParquetError>((name, piece.finish()?))
    };
    let (name, files) = tokio::task::block_in_place(encode).map_err(|error| error.to_string())?;
    for file in files {
        let path = format!("{}/{name}", file.folder);
        store.write(&path, &file.content).await?;
    }
    Ok(())
}
