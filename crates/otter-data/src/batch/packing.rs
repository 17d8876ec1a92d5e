//! Which samples share a row: best fit, longest first ("best-fit decreasing", Johnson 1973), which never needs more than
//! 11/9 of the fewest possible rows plus one. The same lengths always give the same rows.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Where the samples of a batch stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Every sample in a row of its own, padded to the longest.
    #[default]
    Off,
    /// The same samples one after another in as few rows as hold them.
    Batch,
}

/// Puts items of these lengths into rows of at most `capacity` tokens; an item that is longer has a row to itself.
/// Returns the items of every row in ascending order, the row of the first item first.
pub fn best_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&item| Reverse(lengths[item]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the room that is left in them.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for item in order {
        let length = lengths[item];
        let (room, row) = match open.range((length, 0)..).next().copied() {
            Some(fullest) => {
                open.remove(&fullest);
                fullest
            }
            None => {
                rows.push(Vec::new());
                (capacity.max(length), rows.len() - 1)
            }
        };
        rows[row].push(item);
        open.insert((room - length, row));
    }
    for row in &mut rows {
        row.sort_unstable();
    }
    rows.sort_unstable_by_key(|row| row.first().copied());
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_item_goes_where_it_leaves_the_least_room() {
        // 6 and 5 open rows; 4 fills the first, 3 and 2 the second.
        assert_eq!(best_fit(&[3, 6, 2, 5, 4], 10), [vec![0, 2, 3], vec![1, 4]]);
        assert_eq!(best_fit(&[4, 11, 4], 10), [vec![0, 2], vec![1]]);
        assert_eq!(best_fit(&[7, 2, 9], usize::MAX), [vec![0, 1, 2]]);
        assert_eq!(best_fit(&[], 10), Vec::<Vec<usize>>::new());
    }

    proptest! {
        #[test]
        fn every_item_has_one_place_and_no_row_is_too_long(
            lengths in proptest::collection::vec(1usize..70, 0..120),
            capacity in 1usize..100,
        ) {
            let rows = best_fit(&lengths, capacity);
            let mut seen = rows.concat();
            seen.sort_unstable();
            prop_assert!(seen.iter().copied().eq(0..lengths.len()));
            let tokens = |row: &Vec<usize>| row.iter().map(|&item| lengths[item]).sum::<usize>();
            prop_assert!(rows.iter().all(|row| row.len() == 1 || tokens(row) <= capacity));
            // Two rows that fit together would have been one, so no two rows are at most half full.
            let half_empty = rows.iter().filter(|row| 2 * tokens(row) <= capacity).count();
            prop_assert!(half_empty <= 1, "{half_empty} rows are at most half full");
        }
    }
}
