//! Too often? Token buckets (GCRA, by `governor`): one for each client address, API key or event source, or one for all
//! together; and a bucket of its own for each key that has a rate.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota};
use telemetryx_common::Source;

use super::Identity;
use super::buckets::{Buckets, BucketsHeld};
use crate::config::{RateLimitConfig, RateLimitPer};

type Governor<Key, State> =
    governor::RateLimiter<Key, State, DefaultClock, StateInformationMiddleware>;
type Moment = <DefaultClock as Clock>::Instant;

/// What is left in a client's bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Tokens that the bucket holds when it is full.
    pub limit: u32,
    /// Tokens in it now.
    pub remaining: u32,
    /// When it is full again; if it is empty, when it has a token again.
    pub reset: Duration,
}

impl Allowance {
    /// The one of two that is spent sooner.
    #[must_use]
    pub fn tighter(self, other: Option<Self>) -> Self {
        other
            .filter(|other| other.remaining < self.remaining)
            .unwrap_or(self)
    }
}

/// The bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// When it has a token again.
    pub retry_after: Duration,
    /// Tokens that it holds when it is full.
    pub limit: u32,
}

impl From<Spent> for Allowance {
    fn from(spent: Spent) -> Self {
        Self {
            limit: spent.limit,
            remaining: 0,
            reset: spent.retry_after,
        }
    }
}

/// How fast buckets refill and how much they hold.
#[derive(Debug, Clone, Copy)]
struct Rate {
    period: Duration,
    burst: NonZeroU32,
}

impl Rate {
    fn new(rps: f64, burst: u32) -> Self {
        Self {
            period: Duration::from_secs_f64(1.0 / rps).max(Duration::from_nanos(1)),
            burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
        }
    }

    fn quota(self) -> Option<Quota> {
        Some(Quota::with_period(self.period)?.allow_burst(self.burst))
    }

    fn told(
        self,
        clock: &DefaultClock,
        taken: Result<StateSnapshot, NotUntil<Moment>>,
    ) -> Result<Allowance, Spent> {
        let limit = self.burst.get();
        match taken {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                Ok(Allowance {
                    limit,
                    remaining,
                    reset: self.period.saturating_mul(limit.saturating_sub(remaining)),
                })
            }
            Err(until) => Err(Spent {
                retry_after: until.wait_time_from(clock.now()),
                limit,
            }),
        }
    }
}

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    bucket: Governor<NotKeyed, InMemoryState>,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(rps: f64, burst: u32) -> Option<Self> {
        let rate = Rate::new(rps, burst);
        let bucket = Governor::new(
            rate.quota()?,
            InMemoryState::default(),
            DefaultClock::default(),
        );
        Some(Self { rate, bucket })
    }

    /// Takes one token.
    pub(super) fn take(&self) -> Result<Allowance, Spent> {
        self.rate.told(self.bucket.clock(), self.bucket.check())
    }
}

/// One bucket for each client.
#[derive(Debug)]
struct Each {
    rate: Rate,
    buckets: Buckets,
    governor: Governor<u64, Buckets>,
}

impl Each {
    fn new(rps: f64, burst: u32) -> Option<Self> {
        let rate = Rate::new(rps, burst);
        let buckets = Buckets::new();
        Some(Self {
            rate,
            buckets: buckets.clone(),
            governor: Governor::new(rate.quota()?, buckets, DefaultClock::default()),
        })
    }

    fn take(&self, client: &(impl std::hash::Hash + ?Sized)) -> Result<Allowance, Spent> {
        let name = self.buckets.name(client);
        self.rate
            .told(self.governor.clock(), self.governor.check_key(&name))
    }
}

#[derive(Debug)]
enum Per {
    /// One for all who have shown who they are; the others by address.
    All(Bucket, Each),
    Address(Each),
    /// In the order of the config; requests without a key by address.
    Key(Vec<Bucket>, Each),
    Source(Each),
}

/// Counts requests or events against their buckets.
#[derive(Debug)]
pub struct RateLimiter {
    per: Per,
}

impl RateLimiter {
    /// The limiter of the config, which has so many keys; `None` if it is off.
    #[must_use]
    pub fn new(config: &RateLimitConfig, keys: usize) -> Option<Self> {
        if !config.enabled {
            return None;
        }
        let each = || Each::new(config.rps, config.burst);
        let one = || Bucket::new(config.rps, config.burst);
        let per = match config.per {
            RateLimitPer::All => Per::All(one()?, each()?),
            RateLimitPer::SourceIp => Per::Address(each()?),
            RateLimitPer::Key => {
                Per::Key((0..keys).map(|_| one()).collect::<Option<_>>()?, each()?)
            }
            RateLimitPer::Source => Per::Source(each()?),
        };
        Some(Self { per })
    }

    /// Takes one token for a request of this address, before anything else is looked at; `None` if it is not addresses
    /// that have buckets.
    ///
    /// # Errors
    /// [`Spent`] if there is none.
    pub fn take_of_address(&self, peer: IpAddr) -> Result<Option<Allowance>, Spent> {
        match &self.per {
            Per::Address(each) => each.take(&network(peer)).map(Some),
            Per::All(..) | Per::Key(..) | Per::Source(_) => Ok(None),
        }
    }

    /// Takes one token for a request of whoever this is; `None` if it is its address or its events that take them.
    ///
    /// # Errors
    /// [`Spent`] if there is none.
    pub fn take(
        &self,
        peer: IpAddr,
        identity: Option<&Identity>,
    ) -> Result<Option<Allowance>, Spent> {
        let taken = match &self.per {
            Per::All(bucket, _) => bucket.take(),
            Per::Key(keys, others) => {
                match identity.and_then(|identity| keys.get(identity.place)) {
                    Some(bucket) => bucket.take(),
                    None => others.take(&network(peer)),
                }
            }
            Per::Address(_) | Per::Source(_) => return Ok(None),
        };
        taken.map(Some)
    }

    /// Takes one token for a request whose sender is not known before its body is read: none that those who are known
    /// share, so that strangers cannot spend it. `None` if it is events that take them.
    ///
    /// # Errors
    /// [`Spent`] if there is none.
    pub fn take_unknown(&self, peer: IpAddr) -> Result<Option<Allowance>, Spent> {
        match &self.per {
            Per::All(_, strangers) => strangers.take(&network(peer)).map(Some),
            Per::Address(_) | Per::Key(..) | Per::Source(_) => self.take(peer, None),
        }
    }

    /// Takes what [`RateLimiter::take_unknown`] left for later, once it is known who sent the request.
    ///
    /// # Errors
    /// [`Spent`] if there is none.
    pub fn take_shared(&self) -> Result<Option<Allowance>, Spent> {
        match &self.per {
            Per::All(bucket, _) => bucket.take().map(Some),
            Per::Address(_) | Per::Key(..) | Per::Source(_) => Ok(None),
        }
    }

    /// Takes one token for an event of this source; `None` if it is requests that take them.
    ///
    /// # Errors
    /// [`Spent`] if there is none.
    pub fn take_for(&self, source: &Source<'_>) -> Result<Option<Allowance>, Spent> {
        match &self.per {
            // A number and the name of the same digits are one source.
            Per::Source(each) => each.take(&*source.as_text()).map(Some),
            Per::All(..) | Per::Address(_) | Per::Key(..) => Ok(None),
        }
    }

    /// Whether events take tokens, not requests.
    #[must_use]
    pub fn is_per_event(&self) -> bool {
        matches!(self.per, Per::Source(_))
    }

    /// Forgets buckets that are full again; called now and then.
    pub fn tidy(&self) {
        self.each().governor.retain_recent();
    }

    /// How many buckets of single clients there are, and what they take.
    #[must_use]
    pub fn held(&self) -> BucketsHeld {
        self.each().buckets.held()
    }

    fn each(&self) -> &Each {
        match &self.per {
            Per::All(_, each) | Per::Address(each) | Per::Key(_, each) | Per::Source(each) => each,
        }
    }
}

/// An IPv6 client usually owns a whole /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests;
