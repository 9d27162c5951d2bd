use super::*;

fn limiter(per: RateLimitPer, rps: f64, burst: u32) -> RateLimiter {
    let config = RateLimitConfig {
        enabled: true,
        per,
        rps,
        burst,
    };
    RateLimiter::new(&config, 2).unwrap()
}

fn address(n: u32) -> IpAddr {
    n.to_be_bytes().into()
}

#[test]
fn a_bucket_holds_its_burst_then_says_when_to_come_back() {
    let limiter = limiter(RateLimitPer::SourceIp, 1.0, 2);
    let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let first = limiter.take_of_address(here).unwrap().unwrap();
    assert_eq!((first.limit, first.remaining), (2, 1));
    assert_eq!(first.reset, Duration::from_secs(1));
    let second = limiter.take_of_address(here).unwrap().unwrap();
    assert_eq!((second.limit, second.remaining), (2, 0));
    assert_eq!(second.reset, Duration::from_secs(2));
    let spent = limiter.take_of_address(here).unwrap_err();
    assert!(spent.retry_after > Duration::ZERO && spent.retry_after <= Duration::from_secs(1));
    assert_eq!(spent.limit, 2);
    assert!(limiter.take_of_address(there).is_ok());
}

#[test]
fn addresses_of_one_ipv6_network_share_a_bucket() {
    let network = |text: &str| network(text.parse().unwrap());
    assert_eq!(network("2001:db8::1"), network("2001:db8::ffff"));
    assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
    assert_eq!(network("::ffff:192.0.2.1"), IpAddr::from([192, 0, 2, 1]));
}

#[test]
fn events_take_the_tokens_of_their_source_and_requests_none() {
    let limiter = limiter(RateLimitPer::Source, 0.001, 1);
    assert_eq!(limiter.take(address(1), None), Ok(None));
    assert_eq!(limiter.take(address(1), None), Ok(None));
    let (name, number) = (Source::Name("7".into()), Source::Number(7));
    assert!(limiter.take_for(&name).is_ok());
    assert!(limiter.take_for(&number).is_err(), "they are one source");
    assert!(limiter.take_for(&Source::Number(8)).is_ok());
}

#[test]
fn the_largest_rates_and_bursts_of_the_config_do_not_overflow() {
    for (rps, burst) in [(0.001, 300_000), (1e9, u32::MAX), (1e9, 1), (0.001, 1)] {
        for per in [RateLimitPer::All, RateLimitPer::Source] {
            let limiter = limiter(per, rps, burst);
            let taken = match per {
                RateLimitPer::All => limiter.take(address(1), None),
                _ => limiter.take_for(&Source::Number(1)),
            };
            assert_eq!(taken.unwrap().unwrap().limit, burst);
        }
    }
}

/// A million addresses, none of which comes twice: what is held stays within its bound, whoever was there before keeps a
/// bucket of its own, and of those who come after the flood nearly all get in as well.
#[test]
fn a_million_addresses_take_bounded_memory_and_lock_nobody_out() {
    let limiter = limiter(RateLimitPer::SourceIp, 0.001, 10);
    let before: Vec<_> = (0..100).map(|n| address(0x0A00_0000 + n)).collect();
    for peer in &before {
        limiter.take_of_address(*peer).unwrap();
    }
    let flood: Vec<_> = (0..1_000_000).map(|n| address(0x2000_0000 + n)).collect();
    let accepted = flood
        .iter()
        .filter(|peer| limiter.take(**peer, None).is_ok())
        .count();
    assert!(accepted > 114_688, "{accepted}");
    let held = limiter.held();
    assert!(held.buckets <= 114_688, "{held:?}");
    assert!(held.bytes < 4 << 20, "{held:?}");
    limiter.tidy();
    assert_eq!(
        limiter.held().buckets,
        held.buckets,
        "none is full again yet"
    );
    for peer in &before {
        for _ in 1..10 {
            assert!(limiter.take_of_address(*peer).is_ok(), "{peer} has its own");
        }
        assert!(limiter.take_of_address(*peer).is_err());
    }
    // Newcomers share 114,688 buckets with what the flood had beyond the first of it: about eight each.
    let late = (0..1000).map(|n| address(0x0B00_0000 + n));
    let refused = late
        .filter(|peer| limiter.take_of_address(*peer).is_err())
        .count();
    assert!(refused < 500, "{refused} of 1000 were locked out");
}

#[test]
fn buckets_that_are_full_again_are_forgotten_with_their_memory() {
    let limiter = limiter(RateLimitPer::SourceIp, 1e9, 1);
    let empty = limiter.held();
    for n in 0..300_000 {
        limiter.take_of_address(address(n)).ok();
    }
    assert!(limiter.held().buckets > 100_000);
    limiter.tidy();
    assert_eq!(limiter.held(), empty);
}
