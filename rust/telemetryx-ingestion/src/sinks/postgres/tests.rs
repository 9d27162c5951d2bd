//! What needs a server and more of the sink than a route shows: upgrades, and partitions made late.

use std::time::Duration;

use telemetryx_common::{Event, Timestamp};
use telemetryx_testkit::Postgres;

use super::connection::{Connector, ServerConfig};
use super::partitions::Partitions;
use super::schema::{self, MIGRATIONS, Migration};
use super::*;

fn connector(postgres: &Postgres) -> Connector {
    let server = ServerConfig {
        url: Some(postgres.url().parse().unwrap()),
        url_file: None,
        password_file: None,
        tls: None,
    };
    Connector::new(server, TIMEOUT).unwrap()
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
    let (connector, settings) = (connector(&postgres), settings());
    let connection = connector.open("").await.unwrap();
    schema::upgrade(&connection, &settings, MIGRATIONS)
        .await
        .unwrap();
    let mut partitions = Partitions::load(&connection, &settings).await.unwrap();
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
    partitions
        .make_for(&connection, &settings, &make)
        .await
        .unwrap();
    assert_eq!(lies_in(), "1000|1|t");
    reader.batch_execute("COMMIT").await.unwrap();
    let mut partitions = Partitions::load(&connection, &settings).await.unwrap();
    partitions
        .make_for(&connection, &settings, &make)
        .await
        .unwrap();
    assert_eq!(lies_in(), "1000|1|f");
}
