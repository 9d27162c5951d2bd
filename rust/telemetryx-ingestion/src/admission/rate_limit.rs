//! Too often? A token bucket (GCRA, by `governor`) per source address, per key, or for all together.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

use super::Identity;
use crate::config::{RateLimitConfig, RateLimitPer};

/// The most buckets held. With more addresses than that all addresses share one, until full ones are forgotten, which is
/// looked at every second; keys keep theirs.
const BUCKETS_MAX: usize = 100_000;

/// The bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// When it has a token again.
    pub retry_after: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Bucket {
    All,
    Address(IpAddr),
    Key(String),
}

/// Counts requests against their buckets.
pub struct RateLimiter {
    per: RateLimitPer,
    buckets: DefaultKeyedRateLimiter<Bucket>,
    clock: DefaultClock,
}

impl RateLimiter {
    /// The limiter of the config; `None` if it is off.
    #[must_use]
    pub fn new(config: &RateLimitConfig) -> Option<Self> {
        if !config.enabled {
            return None;
        }
        let burst = NonZeroU32::new(config.burst).unwrap_or(NonZeroU32::MIN);
        let quota =
            Quota::with_period(Duration::from_secs_f64(1.0 / config.rps))?.allow_burst(burst);
        Some(Self {
            per: config.per,
            buckets: DefaultKeyedRateLimiter::keyed(quota),
            clock: DefaultClock::default(),
        })
    }

    /// Takes one token for a request.
    ///
    /// # Errors
    /// [`Spent`] if there is none.
    pub fn take(&self, peer: IpAddr, identity: Option<&Identity>) -> Result<(), Spent> {
        let bucket = match (self.per, identity) {
            (RateLimitPer::All, _) => Bucket::All,
            (RateLimitPer::Key, Some(identity)) => Bucket::Key(identity.name.clone()),
            (RateLimitPer::Key | RateLimitPer::SourceIp, _) => Bucket::Address(network(peer)),
        };
        let crowded = matches!(bucket, Bucket::Address(_)) && self.buckets.len() >= BUCKETS_MAX;
        let bucket = if crowded { Bucket::All } else { bucket };
        self.buckets.check_key(&bucket).map_err(|until| Spent {
            retry_after: until.wait_time_from(self.clock.now()),
        })
    }

    /// Forgets buckets that are full again; called now and then.
    pub fn tidy(&self) {
        self.buckets.retain_recent();
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
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_burst_then_says_when_to_come_back() {
        let config = RateLimitConfig {
            enabled: true,
            per: RateLimitPer::SourceIp,
            rps: 1.0,
            burst: 2,
        };
        let limiter = RateLimiter::new(&config).unwrap();
        let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        assert!(limiter.take(here, None).is_ok() && limiter.take(here, None).is_ok());
        let spent = limiter.take(here, None).unwrap_err();
        assert!(spent.retry_after > Duration::ZERO && spent.retry_after <= Duration::from_secs(1));
        assert!(limiter.take(there, None).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        assert_eq!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8::ffff".parse().unwrap())
        );
        assert_eq!(
            network("::ffff:192.0.2.1".parse().unwrap()),
            IpAddr::from([192, 0, 2, 1])
        );
    }
}
