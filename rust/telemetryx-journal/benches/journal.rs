//! Appends in groups of 1, 8 and 64, with and without waiting for the disk, next to a bare write and sync of as many bytes (the
//! ceiling); and the read path. On the disk of `CARGO_TARGET_TMPDIR`, not tmpfs.
//!
//! `cargo bench -p telemetryx-journal`; `cargo test --benches` runs each once.

use std::hint::black_box;
use std::io::IoSlice;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use telemetryx_journal::{
    DiskStorage, Entry, FsyncPolicy, Journal, JournalOptions, Offset, Record, Storage, StorageFile,
};

const BODY: usize = 200;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a directory")
}

fn append(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("append");
    let body = bytes::Bytes::from(vec![b'x'; BODY]);
    for waiting in [1_usize, 8, 64] {
        group.throughput(Throughput::Elements(waiting as u64));
        let policies = [
            ("fsync", FsyncPolicy::Always),
            (
                "interval",
                FsyncPolicy::Interval(Duration::from_millis(100)),
            ),
        ];
        for (name, fsync) in policies {
            let dir = directory();
            let options = JournalOptions {
                fsync,
                ..JournalOptions::default()
            };
            let journal = Journal::open(dir.path(), options).expect("a journal");
            group.bench_function(BenchmarkId::new(name, waiting), |bencher| {
                bencher.iter(|| {
                    let appends: Vec<_> = (0..waiting)
                        .map(|_| journal.append(Record::new(body.clone(), 1, 0, 0)))
                        .collect();
                    runtime.block_on(async {
                        for append in appends {
                            append.await.expect("durable");
                        }
                    });
                });
            });
        }
        let dir = directory();
        let storage = DiskStorage::create(dir.path()).expect("a directory");
        let file = storage.create_new("bare").expect("a file");
        let bytes = vec![b'x'; waiting * (BODY + 64)];
        let mut position = 0;
        group.bench_function(
            BenchmarkId::new("bare write and sync", waiting),
            |bencher| {
                bencher.iter(|| position += bare(&*file, &bytes, position));
            },
        );
    }
    group.finish();
}

fn bare(file: &dyn StorageFile, bytes: &[u8], position: u64) -> u64 {
    let wrote = file
        .write_vectored_at(&[IoSlice::new(bytes)], position)
        .expect("written");
    file.sync_data().expect("synced");
    wrote as u64
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for (name, body, records) in [
        ("200 bytes", BODY, 200_000_u64),
        ("19 KiB", 19 << 10, 5_000),
    ] {
        let dir = directory();
        let options = JournalOptions {
            fsync: FsyncPolicy::Interval(Duration::from_millis(100)),
            max_pending_bytes: 1 << 30,
            ..JournalOptions::default()
        };
        let journal = Journal::open(dir.path(), options).expect("a journal");
        let bytes = bytes::Bytes::from(vec![b'x'; body]);
        for _ in 0..records {
            drop(journal.append(Record::new(bytes.clone(), 1, 0, 0)));
        }
        journal
            .wait_beyond_blocking(Offset::new(records - 1), None)
            .expect("durable");
        group.throughput(Throughput::Bytes(records * body as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut reader = journal.reader(Offset::ZERO).expect("a reader");
                let mut read = 0;
                loop {
                    let chunk = reader.next(1 << 20).expect("a chunk");
                    if chunk.is_empty() {
                        break;
                    }
                    read += chunk
                        .entries
                        .iter()
                        .filter(|entry| matches!(entry, Entry::Record(_)))
                        .count();
                }
                assert_eq!(black_box(read) as u64, records);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = append, read
}
criterion_main!(benches);
