//! Refused events sent again because an operator asked for it: through the intake path, as if they came anew. The ids of
//! those without one are derived from the letter, so that a crash in between stores the event once.

use std::sync::Arc;

use telemetryx_common::EventError;

use crate::control::Kept;
use crate::intake::{Format, Intake, Refusal, Submission};

/// Letters taken at a time.
const AT_ONCE: u32 = 200;

/// Serves the redrives of the door, as long as the service runs.
pub async fn run(intake: Arc<Intake>) {
    let mut changes = intake.control.changes();
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        if let Err(error) = serve(&intake).await {
            tracing::warn!(%error, "refused events cannot be sent again now");
        }
    }
}

async fn serve(intake: &Intake) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for letter in intake.control.letters_to_redrive(None, AT_ONCE)? {
        match send(intake, &letter).await {
            Ok(()) => intake.control.settle(vec![letter.id]).await?,
            Err(Refusal::AllInvalid(errors)) => {
                let EventError { code, message, .. } =
                    errors.into_iter().next().ok_or("no error is said")?;
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
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(())
}

async fn send(intake: &Intake, letter: &Kept) -> Result<(), Refusal> {
    let key = format!("dead-letter {:x} {}", intake.journal.identity(), letter.id);
    let submission = Submission {
        body: letter.body.clone().into(),
        format: if letter.format == "protobuf" {
            Format::Protobuf
        } else {
            Format::Json
        },
        request_id: letter.request_id.as_deref().unwrap_or("redrive"),
        idempotency_key: Some(&key),
        permit: intake
            .memory
            .take(letter.body.len())
            .ok_or(crate::intake::MEMORY_SPENT)?,
    };
    intake.accept_again(submission).await.map(drop)
}
