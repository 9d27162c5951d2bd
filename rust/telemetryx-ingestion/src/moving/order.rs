//! The order of the events in a file: what most routes have passed comes first.
//!
//! Of one partition the events stay in their order, so a key does. Between partitions nothing is promised, and the order can
//! be chosen. The routes' positions cut each partition into segments; who has passed a segment is known. A route has passed
//! less and less of a partition the further one goes, so segments by falling number of those who have passed them are an order
//! that every partition agrees with. Where the routes are one behind the other in all partitions, which is always so with one
//! partition or one route, everything that a route has passed comes before everything that it has not.

use std::collections::BTreeMap;

use crate::journal::Extent;

/// A run of events of a partition, each of which the same routes have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Segments that the same routes have passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Which routes, by their place.
    pub(super) passed_by: Vec<usize>,
    /// At most one of each partition.
    pub(super) segments: Vec<Segment>,
}

impl Group {
    pub(super) fn events(&self) -> u64 {
        self.segments.iter().map(|it| it.to - it.from).sum()
    }
}

/// The groups of a journal, in the order in which they are written. `position` says where a route is in a partition.
pub(super) fn groups(
    extents: &[Extent],
    routes: usize,
    position: impl Fn(usize, u32) -> u64,
) -> Vec<Group> {
    let mut groups = BTreeMap::<Vec<usize>, Vec<Segment>>::new();
    for extent in extents {
        let partition = extent.partition;
        let position = |route| position(route, partition).clamp(extent.start, extent.end);
        let mut cuts: Vec<_> = (0..routes).map(position).collect();
        cuts.extend([extent.start, extent.end]);
        cuts.sort_unstable();
        cuts.dedup();
        for (from, to) in cuts.iter().zip(cuts.iter().skip(1)) {
            let passed_by = (0..routes).filter(|route| position(*route) >= *to);
            let segments = groups.entry(passed_by.collect()).or_default();
            segments.push(Segment {
                partition,
                from: *from,
                to: *to,
            });
        }
    }
    let groups = groups.into_iter();
    let mut groups: Vec<_> = groups
        .map(|(passed_by, segments)| Group {
            passed_by,
            segments,
        })
        .collect();
    // Of those that as many have passed, the largest first: what comes later may have to be delivered again.
    groups.sort_by_key(|group| {
        let key = |number| std::cmp::Reverse(number);
        (key(group.passed_by.len() as u64), key(group.events()))
    });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(partition: u32, start: u64, end: u64) -> Extent {
        Extent {
            partition,
            start,
            end,
        }
    }

    /// `(who has passed them, partition, from, to)`, in order.
    fn order(extents: &[Extent], positions: &[&[u64]]) -> Vec<(Vec<usize>, u32, u64, u64)> {
        let groups = groups(extents, positions.len(), |route, partition| {
            positions[route][partition as usize]
        });
        let flat = groups.into_iter().flat_map(|group| {
            let passed_by = group.passed_by;
            let segments = group.segments.into_iter();
            segments.map(move |it| (passed_by.clone(), it.partition, it.from, it.to))
        });
        flat.collect()
    }

    #[test]
    fn one_partition_stays_as_it_is() {
        let order = order(&[extent(0, 5, 100)], &[&[40], &[100], &[3]]);
        let expected = [(vec![0, 1], 0, 5, 40), (vec![1], 0, 40, 100)];
        assert_eq!(order, expected);
    }

    #[test]
    fn what_all_have_passed_comes_before_what_some_have() {
        let extents = [extent(0, 0, 10), extent(1, 0, 10), extent(2, 4, 4)];
        let order = order(&extents, &[&[10, 6, 4], &[2, 6, 4]]);
        let expected = [
            (vec![0, 1], 0, 0, 2),
            (vec![0, 1], 1, 0, 6),
            (vec![0], 0, 2, 10),
            (vec![], 1, 6, 10),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn every_partition_keeps_its_order_wherever_the_routes_are() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let extents: Vec<_> = (0..random.u32(1..5))
                .map(|partition| {
                    let start = random.u64(0..5);
                    extent(partition, start, start + random.u64(0..30))
                })
                .collect();
            let routes = random.usize(0..4);
            let positions: Vec<Vec<_>> = (0..routes)
                .map(|_| extents.iter().map(|_| random.u64(0..40)).collect())
                .collect();
            let groups = groups(&extents, routes, |route, partition| {
                positions[route][partition as usize]
            });
            let mut next: Vec<_> = extents.iter().map(|extent| extent.start).collect();
            for segment in groups.iter().flat_map(|group| &group.segments) {
                let next = &mut next[segment.partition as usize];
                assert_eq!(segment.from, *next, "seed {seed}");
                *next = segment.to;
            }
            let ends: Vec<_> = extents.iter().map(|extent| extent.end).collect();
            assert_eq!(next, ends, "seed {seed}");
        }
    }
}
