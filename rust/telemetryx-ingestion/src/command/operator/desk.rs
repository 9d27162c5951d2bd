//! Where an operator's commands find dead letters, replays and the bounds of the journal: in a data directory, whether its
//! service runs or not; or in what a fleet shares, from any machine that has the config.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use telemetryx_common::Timestamp;
use telemetryx_journal::JournalView;
use tokio::runtime::Runtime;

use super::{DataDir, DataDirArgs, Failure, moment};
use crate::config::{self, Config};
use crate::control::letters::{self, Asked};
use crate::control::{Control, ControlError, LetterFilter, Part, replays};
use crate::journal::{self, Extent, Journal, OpenedFor, Purpose};
use crate::observe::Metrics;

/// How long the fleet's table may take to tell what it holds.
const UP_TO_DATE: Duration = Duration::from_secs(60);

/// What an operator looks at and changes.
pub(in crate::command) enum Desk {
    /// A data directory.
    Alone {
        /// Which.
        dir: DataDir,
        /// Its control file.
        db: Connection,
    },
    /// A fleet.
    Fleet(Box<Fleet>),
}

/// A fleet as one sees it who has its config.
pub(in crate::command) struct Fleet {
    db: Connection,
    control: Control,
    journal: Arc<dyn Journal>,
    // The last: what it runs ends before it.
    runtime: Runtime,
}

/// Who does what is asked for.
pub(in crate::command) enum Served {
    /// This process, which uses the directory now.
    By(u32),
    /// Nobody at present.
    ByNobody,
    /// Whoever of the fleet it is for.
    ByFleet,
}

impl Desk {
    /// The directory that was given; else what the config says: its fleet, or its directory.
    pub(in crate::command) fn open(
        args: &DataDirArgs,
        config: Option<&Path>,
    ) -> Result<Self, Failure> {
        if let Some(path) = &args.data_dir {
            return Self::alone(DataDir::at(path.clone())?);
        }
        Self::of(&Config::load(config, config::environment())?)
    }

    /// What the config says: its fleet, or its directory.
    pub(in crate::command) fn of(config: &Config) -> Result<Self, Failure> {
        if !journal::is_shared(config) {
            return Self::alone(DataDir::at(config.data_dir.clone())?);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let names = config.routes.iter().map(|route| route.name.as_str());
        let opened_for = OpenedFor {
            routes: names.map(str::to_owned).collect(),
            routes_append: false,
            purpose: Purpose::Look,
            metrics: Arc::new(Metrics::install()),
        };
        let journal = runtime
            .block_on(journal::open(config, opened_for))
            .map_err(|error| Failure::failed(error.to_string()))?;
        Self::fleet(journal, runtime)
    }

    fn alone(dir: DataDir) -> Result<Self, Failure> {
        let db = dir.control()?;
        Ok(Self::Alone { dir, db })
    }

    /// The fleet of this journal.
    fn fleet(journal: Arc<dyn Journal>, runtime: Runtime) -> Result<Self, Failure> {
        let table = journal
            .table()
            .ok_or_else(|| Failure::failed("this journal keeps nothing for a fleet"))?;
        // It trims nothing: that is for those who keep letters.
        let control = Control::start_shared(table, None, u64::MAX, runtime.handle())?;
        if let Err(error) = runtime.block_on(control.up_to_date(UP_TO_DATE)) {
            let why = journal.status().reason;
            let why = why.map_or_else(String::new, |reason| format!(" ({reason})"));
            return Err(Failure::failed(format!("{error}{why}")));
        }
        let db = control.reader()?;
        Ok(Self::Fleet(Box::new(Fleet {
            db,
            control,
            journal,
            runtime,
        })))
    }

    /// What is asked for lists.
    pub(in crate::command) fn db(&self) -> &Connection {
        match self {
            Self::Alone { db, .. } => db,
            Self::Fleet(fleet) => &fleet.db,
        }
    }

    /// Asks for letters to be sent again, and follows them from here on.
    pub(in crate::command) fn ask_redrive(&self, filter: &LetterFilter) -> Result<Asked, Failure> {
        match self {
            Self::Alone { db, .. } => Ok(letters::ask_redrive_and_follow(db, filter)?),
            Self::Fleet(fleet) => {
                let selected = letters::follow(&fleet.db, filter)?;
                let marked = fleet.control.ask_redrive(filter.clone());
                let marked = fleet.runtime.block_on(marked)?;
                Ok(Asked {
                    selected,
                    // What came in between is sent as well, and not followed.
                    marked: (marked as u64).min(selected),
                })
            }
        }
    }

    /// Asks for a replay; its number.
    pub(in crate::command) fn ask_replay(
        &self,
        route: &str,
        parts: &[Part],
    ) -> Result<i64, Failure> {
        match self {
            Self::Alone { db, .. } => Ok(replays::ask(db, route, parts)?),
            Self::Fleet(fleet) => {
                let asked = fleet.control.ask_replay(route, parts.to_vec());
                Ok(fleet.runtime.block_on(asked)?)
            }
        }
    }

    /// Who does what is asked for. Not for a tight loop: see [`DataDir::service`].
    pub(in crate::command) fn served(&self) -> Served {
        match self {
            Self::Alone { dir, .. } => dir.service().map_or(Served::ByNobody, Served::By),
            Self::Fleet(_) => Served::ByFleet,
        }
    }

    /// Looks at the journal.
    pub(in crate::command) fn bounds(&self) -> Result<Bounds<'_>, Failure> {
        match self {
            Self::Alone { dir, .. } => Ok(Bounds::Alone(dir.journal()?)),
            Self::Fleet(fleet) => {
                let seen = fleet.runtime.block_on(fleet.journal.refresh());
                seen.map_err(|error| Failure::failed(error.to_string()))?;
                Ok(Bounds::Fleet(fleet))
            }
        }
    }
}

/// The journal, as far as a replay needs it.
pub(in crate::command) enum Bounds<'d> {
    /// Of a data directory.
    Alone(JournalView),
    /// Of a fleet.
    Fleet(&'d Fleet),
}

impl Bounds<'_> {
    /// What each partition holds.
    pub(in crate::command) fn extents(&self) -> Vec<Extent> {
        match self {
            Self::Alone(journal) => vec![Extent {
                partition: 0,
                start: journal.start().get(),
                end: journal.end().get(),
            }],
            Self::Fleet(fleet) => fleet.journal.extents(),
        }
    }

    /// The first offset of a partition that was accepted at or after `time`, or its end.
    pub(in crate::command) fn offset_at(
        &self,
        partition: u32,
        time: Timestamp,
    ) -> Result<u64, Failure> {
        match self {
            Self::Alone(journal) => Ok(moment::offset_at(journal, time.unix_nanos())?.get()),
            Self::Fleet(fleet) => {
                let offset = fleet.journal.offset_at(partition, time);
                let offset = fleet.runtime.block_on(offset);
                offset.map_err(|error| Failure::failed(error.to_string()))
            }
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::failed(error.to_string())
    }
}

#[cfg(test)]
pub(in crate::command) mod testing {
    //! The desk of a fleet whose journal is in memory: 3 partitions with offsets from 10 up to 20.

    use async_trait::async_trait;

    use super::*;
    use crate::control::testing::{Server, Table};
    use crate::journal::{
        AppendError, Assignments, Backlog, BatchLimit, Committed, Delivery, Durability,
        EncodedBatch, JournalError, JournalStatus, Position, SharedTable,
    };

    struct InMemory(Arc<Server>);

    #[async_trait]
    impl Journal for InMemory {
        async fn append(&self, _: EncodedBatch) -> Result<Position, AppendError> {
            Err(AppendError::Closed)
        }
        fn durability(&self) -> Durability {
            Durability::Replicated
        }
        async fn subscribe(&self, _: &str) -> Result<Box<dyn Assignments>, JournalError> {
            Err(JournalError::Closed)
        }
        fn identity(&self) -> u128 {
            0
        }
        fn status(&self) -> JournalStatus {
            unreachable!("no command asks")
        }
        fn backlog(&self) -> Backlog {
            Backlog::default()
        }
        fn extents(&self) -> Vec<Extent> {
            let extent = |partition| Extent {
                partition,
                start: 10,
                end: 20,
            };
            (0..3).map(extent).collect()
        }
        fn commits(&self, _: &str) -> Vec<Committed> {
            Vec::new()
        }
        async fn refresh(&self) -> Result<(), JournalError> {
            Ok(())
        }
        async fn scan(
            &self,
            _: u32,
            _: u64,
            _: u64,
            _: BatchLimit,
        ) -> Result<Delivery, JournalError> {
            Err(JournalError::Closed)
        }
        /// One event a second since 1970, in each partition one second later.
        async fn offset_at(&self, partition: u32, time: Timestamp) -> Result<u64, JournalError> {
            let seconds = u64::try_from(time.unix_nanos() / 1_000_000_000).unwrap_or_default();
            Ok(seconds.saturating_sub(partition.into()).clamp(10, 20))
        }
        fn table(&self) -> Option<Arc<dyn SharedTable>> {
            Some(Arc::new(Table(Arc::clone(&self.0))))
        }
        async fn close(&self) {}
    }

    /// A desk, as on any machine that has the config.
    pub(in crate::command) fn desk(server: &Arc<Server>) -> Desk {
        let runtime = Runtime::new().unwrap();
        Desk::fleet(Arc::new(InMemory(Arc::clone(server))), runtime).unwrap()
    }

    /// Does something as a process of the fleet.
    pub(in crate::command) fn on_fleet<T>(desk: &Desk, act: impl AsyncFnOnce(&Control) -> T) -> T {
        let Desk::Fleet(fleet) = desk else {
            unreachable!("a directory has no fleet")
        };
        fleet.runtime.block_on(act(&fleet.control))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::Server;
    use crate::control::{DeadLetter, ReplayState, Stage};

    fn letter(partition: u32, offset: u64) -> DeadLetter {
        DeadLetter {
            route: Some("store".into()),
            stage: Stage::Delivery,
            code: "rejected".into(),
            field: None,
            message: "no".into(),
            partition,
            offset: Some(offset),
            format: "stored",
            body: Vec::new(),
            request_id: None,
        }
    }

    #[test]
    fn commands_see_and_change_what_a_fleet_shares() {
        let server = Server::new();
        let process = testing::desk(&server);
        let letters = vec![letter(0, 11), letter(2, 12)];
        testing::on_fleet(&process, async |control| control.keep(letters, None).await).unwrap();

        let desk = testing::desk(&server);
        let all = LetterFilter::default();
        assert_eq!(letters::count(desk.db(), &all).unwrap(), 2);
        assert!(matches!(desk.served(), Served::ByFleet));
        let asked = desk.ask_redrive(&all).unwrap();
        assert_eq!((asked.selected, asked.marked), (2, 2));
        assert_eq!(desk.ask_redrive(&all).unwrap().marked, 0);
        assert_eq!(letters::followed(desk.db()).unwrap().waiting, 2);
        testing::on_fleet(&process, async |control| {
            control
                .changes()
                .wait_for(|_| {
                    control
                        .letters_to_redrive(Some(("store", 2)), 9)
                        .is_ok_and(|all| all.len() == 1)
                })
                .await
                .unwrap();
            let sent = control.letters_to_redrive(Some(("store", 2)), 9).unwrap();
            control.settle(vec![sent[0].id]).await.unwrap();
            let vain = control.letters_to_redrive(Some(("store", 0)), 9).unwrap();
            let told = control.bury_again(vain[0].id, "again".into(), "no".into());
            told.await.unwrap();
        });
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while letters::followed(desk.db()).unwrap().waiting > 0 {
            assert!(std::time::Instant::now() < until);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(letters::followed(desk.db()).unwrap().dead, 1);

        let bounds = desk.bounds().unwrap();
        assert_eq!(bounds.extents().len(), 3);
        let part = Part {
            partition: 1,
            first: 10,
            behind: 20,
        };
        let id = desk.ask_replay("store", &[part]).unwrap();
        let replay = replays::get(desk.db(), id).unwrap();
        assert_eq!(
            (replay.state(), replay.events()),
            (ReplayState::Pending, 10)
        );
    }
}
