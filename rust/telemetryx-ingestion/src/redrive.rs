//! Refused events sent again because an operator asked for it: through the intake path, as if they came anew. The ids of
//! those without one are derived from the letter, so that a crash in between stores the event once.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use telemetryx_common::{EventError, wire};

use crate::control::Kept;
use crate::intake::{Format, Intake, MEMORY_SPENT, Refusal, Submission};
use crate::observe::ProtocolMetrics;

/// Letters taken at a time.
const AT_ONCE: u32 = 200;
/// How often it is looked for letters if nobody says that there are some.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The pause after they could not be sent for now.
const PAUSE: Duration = Duration::from_secs(5);

/// Redriven events were counted as refused when they came; what becomes of them now counts as a protocol of its own.
static AGAIN: LazyLock<ProtocolMetrics> = LazyLock::new(|| ProtocolMetrics::new("redrive"));

/// Serves the redrives of the door, as long as the service runs. Of several processes one is handed the letters.
pub async fn run(intake: Arc<Intake>) {
    let mut changes = intake.control.changes();
    changes.mark_changed();
    loop {
        // Asking also says that this process would send them.
        let changed = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return;
        }
        loop {
            match serve(&intake).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "refused events cannot be sent again now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Sends some of the letters that wait; how many.
async fn serve(intake: &Intake) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    let letters = intake.control.letters_to_redrive(None, AT_ONCE)?;
    let count = letters.len();
    for letter in letters {
        match send(intake, &letter).await {
            Ok(()) => intake.control.settle(vec![letter.id]).await?,
            Err(Refusal::AllInvalid(rejected)) => {
                let EventError { code, message, .. } = rejected
                    .errors
                    .into_iter()
                    .next()
                    .ok_or("no error is said")?;
                intake
                    .control
                    .bury_again(letter.id, code.as_str().to_owned(), message)
                    .await?;
            }
            Err(
                refusal @ (Refusal::Undecodable(_)
                | Refusal::BadRequest { .. }
                | Refusal::TooLarge { .. }),
            ) => {
                intake
                    .control
                    .bury_again(letter.id, "undecodable".to_owned(), refusal.to_string())
                    .await?;
            }
            Err(Refusal::Internal) => {
                intake
                    .control
                    .bury_again(
                        letter.id,
                        "internal".to_owned(),
                        Refusal::Internal.to_string(),
                    )
                    .await?;
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(count)
}

async fn send(intake: &Intake, letter: &Kept) -> Result<(), Refusal> {
    let key = format!("dead-letter {:x} {}", intake.journal.identity(), letter.id);
    let (format, body) = match letter.format.as_str() {
        "protobuf" => (Format::Protobuf, wire::batch_of(&letter.body)),
        _ => (Format::Json, letter.body.clone()),
    };
    let submission = Submission {
        protocol: &AGAIN,
        decoder: &format,
        request_id: letter.request_id.as_deref().unwrap_or("redrive"),
        idempotency_key: Some(&key),
        permit: intake.memory.take(body.len()).ok_or(MEMORY_SPENT)?,
        body: body.into(),
    };
    intake.accept_again(submission).await.map(drop)
}
