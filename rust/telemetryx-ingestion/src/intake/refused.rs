//! Events of one request that were refused, and what their dead letters keep.

use telemetryx_common::{ErrorCode, Event, EventError, json};

use super::decode::Raw;
use super::refusal::ERRORS_MAX;
use crate::admission::MemoryPermit;
use crate::control::{DeadLetter, Stage};

/// What a refused event takes beside its bytes and its message, about.
const BYTES: usize = 300;

/// Refused events of one request.
pub(super) struct Refused {
    /// How many.
    pub(super) count: usize,
    /// Why, in order, as far as it is told.
    pub(super) errors: Vec<EventError>,
    /// Their dead letters; `None` if none are kept.
    pub(super) letters: Option<Letters>,
}

/// Dead letters, and the memory they take.
pub(super) struct Letters {
    letters: Vec<DeadLetter>,
    /// Why each was refused.
    codes: Vec<ErrorCode>,
    /// `None` once there was too little: then none is kept.
    permit: Option<MemoryPermit>,
}

/// There was no memory for the dead letters.
#[derive(Debug)]
pub(super) struct NoMemory;

impl Refused {
    /// None yet. With a permit, dead letters are kept.
    pub(super) fn new(permit: Option<MemoryPermit>) -> Self {
        Self {
            count: 0,
            errors: Vec::new(),
            letters: permit.map(|permit| Letters::within(Some(permit))),
        }
    }

    /// What telling this error takes: nothing once enough are told.
    pub(super) fn bytes_for(&self, error: &EventError) -> usize {
        if self.errors.len() < ERRORS_MAX {
            bytes_of(error)
        } else {
            0
        }
    }

    /// Bytes that the dead letters take.
    pub(super) fn letters_bytes(&self) -> usize {
        let permit = self
            .letters
            .as_ref()
            .and_then(|letters| letters.permit.as_ref());
        permit.map_or(0, MemoryPermit::bytes)
    }

    /// Gives up all dead letters.
    pub(super) fn lose_letters(&mut self) {
        self.letters = self.letters.is_some().then(|| Letters::within(None));
    }

    /// One more, and its letter; `event` is there if it could be read.
    pub(super) fn push(&mut self, error: EventError, raw: Raw<'_>, event: Option<&Event<'_>>) {
        if let Some(letters) = &mut self.letters {
            letters.push(&error, raw, event);
        }
        self.push_unkept(error);
    }

    /// One more, of which nothing is kept.
    pub(super) fn push_unkept(&mut self, error: EventError) {
        self.count += 1;
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }
}

fn bytes_of(error: &EventError) -> usize {
    BYTES + error.message.len()
}

impl Letters {
    /// None yet.
    fn within(permit: Option<MemoryPermit>) -> Self {
        Self {
            letters: Vec::new(),
            codes: Vec::new(),
            permit,
        }
    }

    fn push(&mut self, error: &EventError, raw: Raw<'_>, event: Option<&Event<'_>>) {
        let Some(permit) = &mut self.permit else {
            return;
        };
        let (format, body) = match raw {
            Raw::Json(bytes) => ("json", bytes.to_vec()),
            Raw::Protobuf(bytes) => ("protobuf", bytes.to_vec()),
            Raw::Converted => {
                let mut body = Vec::new();
                if let Some(event) = event {
                    json::write_event(event, &mut body);
                }
                ("json", body)
            }
        };
        if permit.grow(bytes_of(error) + body.len()).is_err() {
            *self = Self::within(None);
            return;
        }
        self.codes.push(error.code);
        self.letters.push(DeadLetter {
            route: None,
            stage: Stage::Validation,
            code: error.code.as_str().to_owned(),
            field: Some(error.field.to_string()),
            message: error.message.clone(),
            partition: 0,
            offset: None,
            format,
            body,
            request_id: None,
        });
    }

    /// The letters, with the request that brought them; and why each was refused.
    pub(super) fn of_request(
        mut self,
        request_id: &str,
    ) -> Result<(Vec<DeadLetter>, Vec<ErrorCode>, MemoryPermit), NoMemory> {
        for letter in &mut self.letters {
            letter.request_id = Some(request_id.to_owned());
        }
        self.permit
            .map(|permit| (self.letters, self.codes, permit))
            .ok_or(NoMemory)
    }
}
