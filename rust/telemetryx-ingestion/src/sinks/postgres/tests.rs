//! What needs a server and more of the sink than a route shows: upgrades, and partitions made late or beside a large
//! default partition.

use std::time::Duration;

use telemetryx_common::{Event, Timestamp};
use telemetryx_testkit::{Postgres, eventually};

use super::partitions::{Partitions, TimeRange};
use super::schema::{self, MIGRATIONS, Migration};
use super::*;
use crate::postgres::{Connection, Connector, ServerConfig, quoted};
use crate::route::{Cause, Stretch};

fn connector(postgres: &Postgres) -> Connector {
    let server = ServerConfig {
        url: Some(postgres.url().parse().unwrap()),
        url_file: None,
        password_file: None,
        tls: None,
    };
    Connector::new(server, *TIMEOUT).unwrap()
}

fn settings() -> Settings {
    let config: PostgresConfig = toml::from_str("schema = 'tele \"metry'").unwrap();
    Settings::new(&config, "store").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_is_upgraded_once_and_a_newer_one_is_left_alone() {
    let postgres = Postgres::start();
    let (connector, settings) = (connector(&postgres), settings());
    let first = connector.open("").await.unwrap();
    schema::upgrade(&first, &settings, MIGRATIONS)
        .await
        .unwrap();
    postgres.sql(
        "INSERT INTO \"tele \"\"metry\".events VALUES ('a', now(), 't', 's', 1, NULL, NULL, '1', now())",
    );
    let next: Migration = |settings| format!("ALTER TABLE {} ADD COLUMN more int", settings.events);
    let more: Vec<Migration> = MIGRATIONS.iter().copied().chain([next]).collect();
    // Two at once: one does it, the other finds it done.
    let second = connector.open("").await.unwrap();
    let (one, other) = tokio::join!(
        schema::upgrade(&first, &settings, &more),
        schema::upgrade(&second, &settings, &more)
    );
    one.unwrap();
    other.unwrap();
    let versions = postgres
        .sql("SELECT string_agg(version::text, ' ') FROM \"tele \"\"metry\".telemetryx_migrations");
    assert_eq!(versions, "1 2");
    assert_eq!(
        postgres.sql("SELECT id, more IS NULL FROM \"tele \"\"metry\".events"),
        "a|t"
    );

    let failure = schema::upgrade(&second, &settings, MIGRATIONS).await;
    let Err(Failure::Retry(words)) = failure else {
        panic!("{failure:?}");
    };
    assert!(
        words.contains("has schema version 2, this binary knows 1"),
        "{words}"
    );

    // A step that fails leaves the version before, as a whole.
    let broken: Migration = |settings| format!("DROP TABLE {}; SELECT 1/0", settings.events);
    let broken: Vec<Migration> = more.iter().copied().chain([broken]).collect();
    let third = connector.open("").await.unwrap();
    schema::upgrade(&third, &settings, &broken)
        .await
        .unwrap_err();
    drop(third);
    schema::upgrade(&first, &settings, &more).await.unwrap();
    assert_eq!(
        postgres.sql("SELECT count(*) FROM \"tele \"\"metry\".events"),
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_made_late_takes_what_the_default_one_holds_of_it() {
    let postgres = Postgres::start();
    postgres.wait_past_midnight();
    let (connector, settings) = (connector(&postgres), settings());
    let connection = connector.open("").await.unwrap();
    schema::upgrade(&connection, &settings, MIGRATIONS)
        .await
        .unwrap();
    let load = async || {
        let loaded = Partitions::load(&connection, &settings, &Pause::default()).await;
        loaded.unwrap()
    };
    let mut partitions = load().await;
    let events = "\"tele \"\"metry\".events";
    postgres.sql(&format!(
        "INSERT INTO {events} SELECT 'a' || n, now() - interval '3 days', 't', 's', 1, NULL, NULL, '1', now() \
         FROM generate_series(1, 1000) n"
    ));
    let lies_in = || {
        postgres.sql(&format!(
            "SELECT count(*), count(DISTINCT tableoid), bool_or(tableoid::regclass::text LIKE '%default%') FROM {events}"
        ))
    };
    assert_eq!(lies_in(), "1000|1|t");
    let ago = Duration::from_secs(3 * 24 * 3600).as_nanos() as i64;
    let late = Event::new(Timestamp::from_unix_nanos(
        crate::clock::now().unix_nanos() - ago,
    ));
    // While somebody reads the default partition it cannot be made: that holds up no delivery.
    let reader = connector.open("").await.unwrap();
    reader
        .batch_execute(&format!("BEGIN; SELECT * FROM {events} LIMIT 1"))
        .await
        .unwrap();
    let make = [late];
    let pause = Pause::default();
    for _ in 0..2 {
        partitions
            .make_for(&connection, &settings, &pause, &make)
            .await
            .unwrap();
        assert_eq!(lies_in(), "1000|1|t");
        // It is not tried again at once, on another connection either.
        reader.batch_execute("COMMIT").await.unwrap();
        partitions = load().await;
    }
    partitions
        .make_for(&connection, &settings, &Pause::default(), &make)
        .await
        .unwrap();
    assert_eq!(lies_in(), "1000|1|f");
}

fn constraints(postgres: &Postgres) -> String {
    postgres.sql(&format!(
        "SELECT count(*) FROM pg_constraint WHERE conname = '{}'",
        making::EXCLUSION
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_made_beside_a_default_one_that_is_never_looked_through_under_a_lock() {
    let postgres = Postgres::start_with(&["log_min_messages=debug1"], |_| {});
    postgres.wait_past_midnight();
    let (connector, settings) = (connector(&postgres), settings());
    let connection = connector.open("").await.unwrap();
    schema::upgrade(&connection, &settings, MIGRATIONS)
        .await
        .unwrap();
    let default = settings.default_partition();
    let put = |id: &str, at: &str| {
        postgres.sql(&format!(
            "INSERT INTO {} VALUES ('{id}', '{at}', 't', 's', 1, NULL, NULL, '1', now())",
            settings.events
        ));
    };
    put("old", "2020-01-01");
    put("far", "2100-01-02 12:00:00");
    let day = |at: &str| {
        let at: jiff::Timestamp = at.parse().unwrap();
        settings.partition.range_of(at.as_microsecond()).unwrap()
    };
    // As a process leaves it that was killed.
    postgres.sql(&format!(
        "ALTER TABLE {default} ADD CONSTRAINT {} CHECK (ts < '2099-01-01' OR ts >= '2099-01-02') NOT VALID",
        making::EXCLUSION
    ));
    let make = async |range: TimeRange| making::make_beside(&connection, &settings, range).await;
    // What is there stays there and is seen.
    let there = make(day("2100-01-02T00:00:00Z")).await.unwrap_err();
    assert!(
        there.to_string().contains("has events of that time"),
        "{there}"
    );
    make(day("2100-01-01T00:00:00Z")).await.unwrap();
    // The server says that it need not look.
    let log = postgres.log();
    let said = "updated partition constraint for default partition \"events_default\" is implied by existing constraints";
    assert!(log.contains(said), "{log}");
    put("new", "2100-01-01 23:59:59");
    assert_eq!(
        postgres.sql(&format!(
            "SELECT id, tableoid::regclass::text LIKE '%events_p21000101%' FROM {} ORDER BY id",
            settings.events
        )),
        "far|f\nnew|t\nold|f"
    );
    assert_eq!(constraints(&postgres), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_time_for_which_a_partition_is_being_made_is_not_held_up() {
    let postgres = Postgres::start();
    let shared = shared(&postgres);
    let mut writer = Writer::open(&shared).await.unwrap();
    let busy = shared.connector.open("").await.unwrap();
    hold_up(&busy, &shared.settings).await;
    let validating = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(8)").await });
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(8)' AND state = 'active'";
    eventually(Duration::from_secs(5), "it is at work", || {
        postgres.sql(running) == "1"
    });
    let batch = batch(0, "far");
    let refused = writer.store(&shared, &batch).await;
    assert!(matches!(refused, Err(Failure::Excluded(_))), "{refused:?}");
    assert_eq!(constraints(&postgres), "0");
    let ended = validating.await.unwrap().unwrap_err();
    assert!(
        crate::postgres::words(&ended).contains("canceling"),
        "{ended}"
    );
    let mut writer = Writer::open(&shared).await.unwrap();
    writer.store(&shared, &batch).await.unwrap();
    let stored = format!("SELECT id FROM {}", shared.settings.events);
    assert_eq!(postgres.sql(&stored), "far");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_stored_of_who_was_overtaken_though_rows_are_sent_before_that_is_known() {
    let postgres = Postgres::start();
    let shared = shared(&postgres);
    let mut first = Writer::open(&shared).await.unwrap();
    let mut second = Writer::open(&shared).await.unwrap();
    first.store(&shared, &batch(0, "a")).await.unwrap();
    second.store(&shared, &batch(1, "b")).await.unwrap();
    let overtaken = first.store(&shared, &batch(1, "c")).await.unwrap_err();
    assert!(
        overtaken.to_string().contains("another process delivers"),
        "{overtaken}"
    );
    drop(first);
    second.store(&shared, &batch(2, "d")).await.unwrap();
    let ids = format!(
        "SELECT string_agg(id, ' ' ORDER BY id) FROM {}",
        shared.settings.events
    );
    assert_eq!(postgres.sql(&ids), "a b d");
}

fn shared(postgres: &Postgres) -> Shared {
    Shared {
        connector: connector(postgres),
        settings: settings(),
        pause: Pause::default(),
    }
}

/// One event of the year 2100, at this place of a log.
fn batch(first: u64, id: &'static str) -> EventBatch<'static> {
    let stretch = Stretch {
        log: 1,
        first,
        end: first + 1,
        part: 0,
    };
    let mut batch = EventBatch::new(Cause::Journal(stretch), Timestamp::UNIX_EPOCH);
    let mut event = Event::new(Timestamp::from_unix_nanos(4_102_444_800_000_000_000));
    event.id = id.into();
    batch.push(first, event);
    batch
}

/// As while the default partition is looked through for a range of the year 2100.
async fn hold_up(connection: &Connection, settings: &Settings) {
    let lock = making::lock_name(settings);
    connection
        .batch_execute(&format!(
            "SELECT pg_advisory_lock(hashtextextended({}, 0));
             ALTER TABLE {} ADD CONSTRAINT {} CHECK (ts < '2100-01-01' OR ts >= '2100-01-02') NOT VALID",
            quoted(&lock, '\''),
            settings.default_partition(),
            making::EXCLUSION
        ))
        .await
        .unwrap();
}
