//! What processes tell each other as it happens. Whatever is missed is seen at the next look.
//!
//! ```text
//! e <partition>:<end>:<bytes> …    events were committed
//! t <sequence>                     the table of names has changed
//! m                                somebody came, went, or gave partitions up
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::Notification;

use super::core::Core;
use super::seen::End;

/// The pause before it listens again.
const AGAIN: Duration = Duration::from_millis(500);

/// Listens for ever.
pub(super) async fn listen(core: Arc<Core>) {
    while !core.closed().is_cancelled() {
        core.ready().await;
        let (tell, heard) = mpsc::unbounded_channel();
        // It is quiet for as long as nothing happens.
        let setup = core.settings().sql("LISTEN {s}");
        let opening = core.settings().connector.open_telling(&setup, Some(tell));
        match Box::pin(opening).await {
            Ok(connection) => {
                // What happened before is not told.
                core.look_again();
                core.members().wake();
                hear(&core, heard).await;
                drop(connection);
            }
            Err(words) => tracing::debug!(reason = words, "nothing can be listened to"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = core.closed().cancelled() => {}
        }
    }
}

/// Until the connection ends, or the journal.
async fn hear(core: &Core, mut heard: mpsc::UnboundedReceiver<Notification>) {
    loop {
        let notification = tokio::select! {
            notification = heard.recv() => notification,
            () = core.closed().cancelled() => return,
        };
        let Some(notification) = notification else {
            return;
        };
        take(core, notification.payload());
    }
}

fn take(core: &Core, told: &str) {
    let mut words = told.split(' ');
    match words.next() {
        Some("e") => core.seen().set_ends(words.filter_map(end)),
        Some("t") => {
            if let Some(sequence) = words.next().and_then(|word| word.parse().ok()) {
                core.seen().set_changed(sequence);
            }
        }
        Some("m") => core.members().wake(),
        _ => {}
    }
}

fn end(word: &str) -> Option<(u32, End)> {
    let mut numbers = word.split(':');
    let partition = numbers.next()?.parse().ok()?;
    let offset = numbers.next()?.parse().ok()?;
    let bytes = numbers.next()?.parse().ok()?;
    Some((partition, End { offset, bytes }))
}
