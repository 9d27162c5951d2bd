//! Events of one request that were refused, and what their dead letters keep.

use telemetryx_common::{ErrorCode, Event, EventError, json};

use super::decode::Raw;
use crate::admission::MemoryPermit;
use crate::control::{DeadLetter, Stage};

/// What a refused event takes beside its bytes and its message, about.
const BYTES: usize = 300;

/// Refused events of one request.
pub(super) struct Refused {
    /// Why, in order.
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
            errors: Vec::new(),
            letters: permit.map(|permit| Letters::within(Some(permit))),
        }
    }

    /// What keeping this error takes.
    pub(super) fn bytes_of(error: &EventError) -> usize {
        BYTES + error.message.len()
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
        self.errors.push(error);
    }
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
        if !permit.grow(Refused::bytes_of(error) + body.len()) {
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
