//! Every trouble that a sink's server and the network can make, with the real servers: each ends with every accepted
//! event there once, no other route waits, and it is named in `/health`, `/status`, the metrics and one line of the log.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::outages::{Outages, Trouble};
use support::parquet::parquet_ids;
use support::{service, start};
use telemetryx_testkit::{Kafka, Postgres, Proxy, RedisAnswer, RedisServer, S3Server, SmallDisk};

#[test]
fn postgres() {
    let mut postgres = Postgres::start_with(&["max_wal_size=64MB"], |_| {});
    let disk = SmallDisk::of_kib(16 << 10);
    postgres.give(disk.path());
    postgres.sql(&format!(
        "CREATE TABLESPACE small LOCATION '{}'",
        disk.path().display()
    ));
    postgres.sql("CREATE ROLE writer LOGIN; GRANT ALL ON SCHEMA public TO writer; GRANT CREATE ON TABLESPACE small TO writer");
    postgres.sql("ALTER ROLE writer SET default_tablespace = small");
    let proxy = Proxy::start(postgres.port());
    let url = format!("postgres://writer@{}/postgres", proxy.address());
    let config = Outages::config(&format!("kind: postgres, url: '{url}', timeout: 300ms"));
    let service = service().config(&config).start();
    let outages = Outages::of(&service);
    let sql = |sql: &'static str| postgres.sql(sql);
    // Sessions that are there keep what was set when they began.
    let reload = |setting: &'static str| {
        move || {
            sql(setting);
            sql("SELECT pg_reload_conf()");
            sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'");
        }
    };
    let mut troubles = Trouble::of_the_network(&proxy, "no answer within 300ms", "");
    troubles.extend([
        Trouble::new(
            "hung server",
            "no answer within 300ms",
            || postgres.hang(),
            || postgres.go_on(),
        ),
        Trouble::new(
            "read-only",
            "read-only transaction",
            reload("ALTER ROLE writer SET default_transaction_read_only = on"),
            reload("ALTER ROLE writer RESET default_transaction_read_only"),
        ),
        Trouble::new(
            "may not log in",
            "not permitted to log in",
            reload("ALTER ROLE writer NOLOGIN"),
            reload("ALTER ROLE writer LOGIN"),
        ),
        Trouble::new(
            "column gone",
            "payload",
            reload("ALTER TABLE events RENAME COLUMN payload TO gone"),
            reload("ALTER TABLE events RENAME COLUMN gone TO payload"),
        ),
        Trouble::new(
            "table gone",
            "to have it made anew",
            reload("ALTER TABLE events RENAME TO gone"),
            reload("ALTER TABLE gone RENAME TO events"),
        ),
        outages.disk_full(&disk, "No space left on device"),
    ]);
    outages.go_through(&troubles);
    drop(troubles);

    postgres.kill();
    outages.post(200);
    postgres.restart();
    outages.wait_until_delivered("killed");
    let stored = postgres.sql("SELECT id FROM events ORDER BY id COLLATE \"C\"");
    assert!(stored.lines().eq(outages.ids()), "each is there once");
}

#[test]
fn redis() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::start(redis.port());
    let url = format!("redis://{}", proxy.address());
    let service = start(&Outages::config(&format!(
        "kind: redis, url: '{url}', timeout: 300ms"
    )));
    let outages = Outages::of(&service);
    let server = &redis;
    let ask = |command: &'static [&'static str]| move || drop(redis_ok(server, command));
    let mut troubles = Trouble::of_the_network(&proxy, "300ms", "");
    troubles.extend([
        Trouble::new("hung server", "300ms", || redis.hang(), || redis.go_on()),
        Trouble::new(
            "out of memory",
            "maxmemory",
            ask(&["CONFIG", "SET", "maxmemory", "1"]),
            ask(&["CONFIG", "SET", "maxmemory", "0"]),
        ),
        Trouble::new(
            "too few replicas",
            "NOREPLICAS",
            ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]),
            ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
        ),
        Trouble::new(
            "a replica now",
            "read only",
            ask(&["REPLICAOF", "127.0.0.1", "1"]),
            ask(&["REPLICAOF", "NO", "ONE"]),
        ),
        Trouble::new(
            "a key of another kind",
            "WRONGTYPE",
            || {
                redis_ok(&redis, &["RENAME", "{telemetryx}:types", "kept"]);
                redis_ok(&redis, &["SET", "{telemetryx}:types", "text"]);
            },
            ask(&["RENAME", "kept", "{telemetryx}:types"]),
        ),
        Trouble::new(
            "password",
            "uthentication",
            || {
                redis_ok(
                    &redis,
                    &[
                        "ACL", "SETUSER", "boss", "on", "nopass", "~*", "&*", "+@all",
                    ],
                );
                redis_ok(&redis, &["ACL", "SETUSER", "default", "off"]);
                proxy.cut();
            },
            || {
                let mut boss = redis.connect();
                assert_eq!(
                    boss.ask(&["AUTH", "boss", "any"]),
                    RedisAnswer::Text("OK".to_owned())
                );
                boss.ask(&["ACL", "SETUSER", "default", "on"]);
            },
        ),
    ]);
    outages.go_through(&troubles);
    drop(troubles);

    redis.kill();
    outages.post(200);
    redis.restart();
    outages.wait_until_delivered("killed");
    let counted = redis.ask(&["HGET", "{telemetryx}:totals", "events"]);
    assert_eq!(counted.text(), outages.ids().len().to_string());
}

#[test]
fn kafka() {
    let mut kafka = Kafka::builder().proxied().start();
    kafka.create_topic("outages", 4, &[]);
    let sink = format!(
        "kind: kafka, brokers: '{}', topic: outages, timeout: 300ms",
        kafka.brokers()
    );
    let service = start(&Outages::config(&sink));
    let outages = Outages::of(&service);
    let mut troubles = Trouble::of_the_network(kafka.proxy(0), "no answer within 300ms", "");
    troubles.push(Trouble::new(
        "hung server",
        "no answer within 300ms",
        || kafka.hang(0),
        || kafka.go_on(0),
    ));
    outages.go_through(&troubles);
    drop(troubles);

    kafka.kill(0);
    outages.post(200);
    kafka.restart(0);
    outages.wait_until_delivered("killed");
    let messages = kafka.messages("outages");
    let mut ids: Vec<_> = messages
        .iter()
        .map(|message| message.header("id"))
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, outages.ids(), "each is there once");
}

#[test]
fn parquet() {
    let disk = SmallDisk::of_kib(4 << 10);
    let mut s3 = S3Server::start_on(disk.path());
    let proxy = Proxy::start(s3.port());
    let service = start(&Outages::config(&format!(
        "kind: parquet, url: 's3://{}/lake', options: {{ {} }}, roll: {{ age: 20ms }}, timeout: 300ms",
        S3Server::BUCKET,
        S3Server::options(proxy.port())
    )));
    let outages = Outages::of(&service);
    let hung = "nothing moved for 300ms";
    let mut troubles = Trouble::of_the_network(&proxy, hung, "invalid HTTP");
    troubles.extend([
        Trouble::new("hung server", hung, || s3.hang(), || s3.go_on()),
        Trouble::new(
            "no bucket",
            "NoSuchBucket",
            || proxy.answer_with(NO_BUCKET),
            || proxy.restore(),
        ),
        Trouble::new(
            "forbidden",
            "AccessDenied",
            || proxy.answer_with(FORBIDDEN),
            || proxy.restore(),
        ),
        outages.disk_full(&disk, "500 Internal Server Error"),
    ]);
    outages.go_through(&troubles);
    drop(troubles);

    s3.kill();
    outages.post(200);
    s3.restart();
    outages.wait_until_delivered("killed");
    let stored = parquet_ids(&s3.bucket().join("lake"));
    assert!(stored.values().all(|times| *times == 1), "{stored:?}");
    assert!(stored.keys().eq(&outages.ids()), "each is there once");
}

/// As S3 refuses who may not write.
const FORBIDDEN: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 72\r\nconnection: close\r\n\r\n\
    <Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
/// As it says that there is no such bucket; the server of this test makes one.
const NO_BUCKET: &[u8] =
    b"HTTP/1.1 404 Not Found\r\ncontent-length: 40\r\nconnection: close\r\n\r\n\
    <Error><Code>NoSuchBucket</Code></Error>";

#[track_caller]
fn redis_ok(redis: &RedisServer, command: &[&str]) -> RedisAnswer {
    let answer = redis.ask(command);
    assert!(
        !matches!(answer, RedisAnswer::Error(_)),
        "{command:?}: {answer:?}"
    );
    answer
}
