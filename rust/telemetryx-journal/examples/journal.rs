//! Append, read, remember the place, stop, go on: `cargo run -p telemetryx-journal --example journal`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use telemetryx_journal::{Entry, Journal, JournalOptions, Record};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("journal-example-{}", std::process::id()));

    let journal = Journal::open(&dir, JournalOptions::default())?;
    println!("opened: {}", journal.recovery());
    for number in 0..5 {
        let position = journal.append_blocking(Record::new(format!("event {number}"), 1, 0, 0))?;
        println!("event {number} is on the disk at offset {}", position.first);
    }

    let mut cursor = journal.cursor("printer")?;
    let chunk = journal.reader(cursor.position())?.next(1 << 20)?;
    for entry in chunk.entries.iter().take(3) {
        print(entry);
        cursor.commit(entry.end(), b"")?;
    }
    println!(
        "stopping with a backlog of {} events",
        journal.backlog().events
    );
    drop(cursor);
    journal.close_blocking()?;
    drop(journal);

    let journal = Journal::open(&dir, JournalOptions::default())?;
    println!("opened again: {}", journal.recovery());
    let cursor = journal.cursor("printer")?;
    for entry in &journal.reader(cursor.position())?.next(1 << 20)?.entries {
        print(entry);
    }
    journal.close_blocking()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn print(entry: &Entry) {
    match entry {
        Entry::Record(record) => println!(
            "{}: {}",
            record.first,
            String::from_utf8_lossy(&record.body)
        ),
        Entry::Gap { from, to, reason } => println!("{from} up to {to} cannot be read: {reason:?}"),
    }
}
