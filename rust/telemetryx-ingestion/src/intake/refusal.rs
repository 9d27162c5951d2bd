//! Why a request was refused, as a whole or in part. What to do is a property of the variant; only the edge turns it into
//! a status code.

use std::time::Duration;

use telemetryx_common::{DecodeError, EventError};

use crate::admission::{Shortage, Spent};
use crate::observe::SignatureFault;

/// Most errors told in one answer: a few bytes of body can be many refused events.
pub const ERRORS_MAX: usize = 1000;
/// The answer when the memory budget is spent.
pub const MEMORY_SPENT: Refusal = Refusal::Overloaded {
    code: "memory_budget_spent",
    message: "too many bytes are under way; try again",
};

/// Events of a request that were refused.
#[derive(Debug, Default)]
pub struct Rejections {
    /// How many.
    pub count: usize,
    /// Why, for the first [`ERRORS_MAX`] of them.
    pub errors: Vec<EventError>,
}

/// Why nothing of a request was kept. The edge turns it into its protocol's answer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The body is not what its type says.
    #[error("{0}")]
    Undecodable(#[from] DecodeError),
    /// It can be read, but not as it was sent: a bad header, a truncated gzip.
    #[error("{message}")]
    BadRequest {
        /// Short snake_case name of the fault.
        code: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Every event is invalid.
    #[error("{}", all_invalid(.0))]
    AllInvalid(Rejections),
    /// A body, an event or a batch is over its limit.
    #[error("{what} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit, with its unit.
        limit: String,
    },
    /// The content type or encoding is not known.
    #[error("{0}")]
    Unsupported(String),
    /// The body came too slowly.
    #[error("the body did not arrive within {0:?}")]
    TooSlow(Duration),
    /// The client went away in the middle of the body.
    #[error("the connection ended before the body did")]
    Gone,
    /// No key, or an unknown one.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// A delivery that is not signed by one of the keys, or not lately.
    #[error("{}", unsigned(*.0))]
    Unsigned(SignatureFault),
    /// A key that may not.
    #[error("{0}")]
    Forbidden(&'static str),
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// There is something of that name, but not with this method: those it takes, as the header `Allow` lists them.
    #[error("this endpoint takes {0}")]
    MethodNotAllowed(&'static str),
    /// The client sends too often.
    #[error("the rate limit is spent")]
    RateLimited(Spent),
    /// There is no room now: memory, queue or backlog.
    #[error("{message}")]
    Overloaded {
        /// Short snake_case name of what is full.
        code: &'static str,
        /// What is full, for a person.
        message: &'static str,
    },
    /// The journal cannot write, or the service is going down.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of ours.
    #[error("an internal fault; the log has it under this request id")]
    Internal,
}

impl Refusal {
    /// A body over `http.max_body`, as it was sent or unpacked.
    #[must_use]
    pub fn body_too_large(limit: usize) -> Self {
        Self::TooLarge {
            what: "the body",
            limit: format!("{limit} bytes (http.max_body)"),
        }
    }
}

impl From<Shortage> for Refusal {
    fn from(shortage: Shortage) -> Self {
        match shortage {
            Shortage::Spent => MEMORY_SPENT,
            Shortage::TooMuch { needed, limit } => Self::TooLarge {
                what: "the memory that this request needs",
                limit: format!(
                    "{limit} bytes (admission.memory_budget): it needs {needed} at least"
                ),
            },
        }
    }
}

fn unsigned(fault: SignatureFault) -> &'static str {
    match fault {
        SignatureFault::Missing => "the delivery is not signed",
        SignatureFault::Wrong => "the signature is wrong",
        SignatureFault::Expired => {
            "the delivery was signed at a time too far from the service's clock"
        }
    }
}

fn all_invalid(Rejections { count, errors }: &Rejections) -> String {
    let first = errors.first().map_or("", |error| &error.message);
    match count {
        1 => format!("the event is invalid: {first}"),
        _ => format!("none of the {count} events is valid; the first: {first}"),
    }
}
