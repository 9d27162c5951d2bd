//! Who reads which partitions of a route: the same for all who look at the same rows.
//!
//! Each process that lives gets its share, as even as it can be; one more goes to those who have most already, so that as
//! little as possible moves. A process gives up what it has beyond its share, and takes what is free up to it.

use std::collections::BTreeMap;

use uuid::Uuid;

/// What a process is to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Todo {
    /// Partitions to give up.
    pub(super) give: Vec<u32>,
    /// How many to take.
    pub(super) take: usize,
    /// Those that are free.
    pub(super) free: Vec<u32>,
}

/// What `me` is to do. `owners` has who reads each partition; `living` are all processes that read the route, `me` among
/// them.
pub(super) fn todo(owners: &[Option<Uuid>], living: &[Uuid], me: Uuid) -> Todo {
    let mut held: BTreeMap<Uuid, Vec<u32>> = living.iter().map(|one| (*one, Vec::new())).collect();
    let mut free = Vec::new();
    for (partition, owner) in (0..).zip(owners) {
        match owner.and_then(|owner| held.get_mut(&owner)) {
            Some(partitions) => partitions.push(partition),
            None => free.push(partition),
        }
    }
    let mut order: Vec<_> = held
        .iter()
        .map(|(member, held)| (held.len(), *member))
        .collect();
    order.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let (each, more) = match order.len() {
        0 => return Todo::default(),
        members => (owners.len() / members, owners.len() % members),
    };
    let place = order.iter().position(|(_, member)| *member == me);
    let Some(place) = place else {
        return Todo::default();
    };
    let share = each + usize::from(place < more);
    let mine = held.remove(&me).unwrap_or_default();
    Todo {
        take: share.saturating_sub(mine.len()).min(free.len()),
        give: mine.into_iter().skip(share).collect(),
        free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// All do what they are to do, until nobody has anything to do; how many partitions moved.
    fn settle(owners: &mut [Option<Uuid>], living: &[Uuid]) -> usize {
        let mut moved = 0;
        for _ in 0..20 {
            let mut is_settled = true;
            for me in living {
                let todo = todo(owners, living, *me);
                is_settled &= todo.give.is_empty() && todo.take == 0;
                todo.give
                    .iter()
                    .for_each(|give| owners[*give as usize] = None);
                moved += todo.give.len();
                for free in todo.free.iter().take(todo.take) {
                    assert!(owners[*free as usize].is_none_or(|owner| !living.contains(&owner)));
                    owners[*free as usize] = Some(*me);
                }
            }
            if is_settled {
                return moved;
            }
        }
        panic!("never settled: {owners:?}");
    }

    #[test]
    fn shares_are_even_and_little_moves_whoever_comes_and_goes() {
        for partitions in [1, 2, 4, 7, 12] {
            let mut owners = vec![None; partitions];
            let mut living = Vec::new();
            for step in [1, 2, 3, 4, 5, 6, 7, 8] {
                living.push(member(step));
                let moved = settle(&mut owners, &living);
                let counts = living
                    .iter()
                    .map(|me| owners.iter().filter(|owner| **owner == Some(*me)).count());
                let counts: Vec<_> = counts.collect();
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "{partitions}: {counts:?}");
                assert!(
                    moved <= partitions / living.len() + 1,
                    "{partitions}: {moved} moved for one who came"
                );
            }
            while living.len() > 1 {
                living.remove(0);
                let moved = settle(&mut owners, &living);
                assert_eq!(moved, 0, "who stays keeps what it has");
                assert!(owners.iter().all(|owner| living.contains(&owner.unwrap())));
            }
        }
    }

    #[test]
    fn who_is_not_known_to_live_takes_nothing() {
        assert_eq!(
            todo(&[None, None], &[member(1)], member(2)),
            Todo::default()
        );
        assert_eq!(todo(&[None], &[], member(2)), Todo::default());
    }
}
