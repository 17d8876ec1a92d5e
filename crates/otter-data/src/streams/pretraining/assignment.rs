//! One-to-one assignment with the largest sum, by the Hungarian method with potentials (Kuhn 1955, Munkres 1957).

/// Most elementary steps that an assignment may need; a damaged or hostile matrix must not stop a run.
const MAX_STEPS: usize = 1 << 29;

/// Pairs (row, column), by row, of a one-to-one assignment that maximizes the sum of `score`; the smaller side is assigned
/// completely. `None` if a row has another length than the first, a value is not finite, or the matrix is so large that
/// rows² × columns exceeds 2²⁹.
pub fn best_assignment(score: &[Vec<f64>]) -> Option<Vec<(usize, usize)>> {
    let columns = score.first().map_or(0, Vec::len);
    let (short, long) = (score.len().min(columns), score.len().max(columns));
    let steps = short.checked_mul(short)?.checked_mul(long)?;
    if steps > MAX_STEPS
        || score.iter().any(|row| row.len() != columns || row.iter().any(|value| !value.is_finite()))
    {
        return None;
    }
    if score.len() <= columns {
        let of_row = assign(short, long, |row, column| -score[row][column]);
        return Some(of_row.into_iter().enumerate().collect());
    }
    let of_column = assign(short, long, |column, row| -score[row][column]);
    let mut pairs: Vec<_> = of_column.into_iter().enumerate().map(|(column, row)| (row, column)).collect();
    pairs.sort_unstable();
    Some(pairs)
}

/// The column of each row in an assignment of the smallest total cost; there are no more rows than columns.
///
/// Rows are added one by one. A new row grows a tree of zero reduced costs (Dijkstra's way, costs reduced by the
/// potentials of rows and columns) until it reaches a free column; then the pairs along that path are exchanged.
fn assign(rows: usize, columns: usize, cost: impl Fn(usize, usize) -> f64) -> Vec<usize> {
    let mut row_potential = vec![0.0; rows];
    let mut column_potential = vec![0.0; columns];
    let mut row_of: Vec<Option<usize>> = vec![None; columns];
    for new_row in 0..rows {
        let mut distance = vec![f64::INFINITY; columns];
        // Column before each column on the path from the new row; none if the new row itself comes before it.
        let mut previous: Vec<Option<usize>> = vec![None; columns];
        let mut reached = vec![false; columns];
        let (mut row, mut last) = (new_row, None);
        let end = loop {
            let (mut nearest, mut step) = (None, f64::INFINITY);
            for column in (0..columns).filter(|&column| !reached[column]) {
                let reduced = cost(row, column) - row_potential[row] - column_potential[column];
                if reduced < distance[column] {
                    distance[column] = reduced;
                    previous[column] = last;
                }
                if nearest.is_none() || distance[column] < step {
                    step = distance[column];
                    nearest = Some(column);
                }
            }
            // There are more columns than rows assigned so far, so one is always left.
            let Some(nearest) = nearest else { break None };
            row_potential[new_row] += step;
            for column in 0..columns {
                if reached[column] {
                    column_potential[column] -= step;
                    if let Some(row) = row_of[column] {
                        row_potential[row] += step;
                    }
                } else {
                    distance[column] -= step;
                }
            }
            reached[nearest] = true;
            last = Some(nearest);
            match row_of[nearest] {
                None => break last,
                Some(next) => row = next,
            }
        };
        let mut column = end;
        while let Some(current) = column {
            column = previous[current];
            row_of[current] = match column {
                Some(before) => row_of[before],
                None => Some(new_row),
            };
        }
    }
    let mut column_of = vec![0; rows];
    for (column, row) in row_of.into_iter().enumerate() {
        if let Some(row) = row {
            column_of[row] = column;
        }
    }
    column_of
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn sum(score: &[Vec<f64>], pairs: &[(usize, usize)]) -> f64 {
        pairs.iter().map(|&(row, column)| score[row][column]).sum()
    }

    /// The largest sum over all assignments of the smaller side.
    fn brute_force(score: &[Vec<f64>], row: usize, used: &mut Vec<bool>, left: usize) -> f64 {
        if left == 0 {
            return 0.0;
        }
        if score.len() - row < left {
            return f64::NEG_INFINITY;
        }
        let mut best = brute_force(score, row + 1, used, left);
        for column in 0..used.len() {
            if !used[column] {
                used[column] = true;
                best = best.max(score[row][column] + brute_force(score, row + 1, used, left - 1));
                used[column] = false;
            }
        }
        best
    }

    #[test]
    fn the_greedy_choice_is_not_the_best() {
        // Greedy takes 0.9 and is left with 0.1.
        let score = vec![vec![0.9, 0.8], vec![0.8, 0.1]];
        assert_eq!(best_assignment(&score), Some(vec![(0, 1), (1, 0)]));
        let wide = vec![vec![0.1, 0.2, 0.5], vec![0.3, 0.1, 0.6]];
        assert_eq!(best_assignment(&wide), Some(vec![(0, 2), (1, 0)]));
        let tall = vec![vec![0.3], vec![0.7], vec![0.5]];
        assert_eq!(best_assignment(&tall), Some(vec![(1, 0)]));
        assert_eq!(best_assignment(&[]), Some(vec![]));
        assert_eq!(best_assignment(&[vec![], vec![]]), Some(vec![]));
    }

    #[test]
    fn matrices_that_are_none_are_refused() {
        assert_eq!(best_assignment(&[vec![1.0], vec![1.0, 2.0]]), None);
        assert_eq!(best_assignment(&[vec![f64::NAN]]), None);
        assert_eq!(best_assignment(&[vec![f64::INFINITY]]), None);
        assert_eq!(best_assignment(&vec![vec![0.0; 2000]; 2000]), None);
    }

    #[test]
    fn two_hundred_images_and_sentences_take_no_time() {
        let value = |row: usize, column: usize| ((row * 7919 + column * 104_729) % 1009) as f64 / 1009.0;
        let score: Vec<Vec<f64>> =
            (0..200).map(|row| (0..300).map(|column| value(row, column)).collect()).collect();
        let pairs = best_assignment(&score).unwrap();
        assert_eq!(pairs.len(), 200);
        // No exchange of two pairs and no move to a free column is better.
        let free: Vec<usize> = (0..300).filter(|column| pairs.iter().all(|pair| pair.1 != *column)).collect();
        for &(row, column) in &pairs {
            assert!(free.iter().all(|&other| score[row][other] <= score[row][column] + 1e-12));
            for &(row_2, column_2) in &pairs {
                let exchanged = score[row][column_2] + score[row_2][column];
                assert!(exchanged <= score[row][column] + score[row_2][column_2] + 1e-12);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn equal_to_all_possibilities(
            (rows, columns, values) in (1_usize..6, 1_usize..6).prop_flat_map(|(rows, columns)| {
                (Just(rows), Just(columns), proptest::collection::vec(-3_i32..4, rows * columns))
            })
        ) {
            let score: Vec<Vec<f64>> =
                values.chunks(columns).map(|row| row.iter().map(|&value| f64::from(value) / 4.0).collect()).collect();
            let pairs = best_assignment(&score).unwrap();
            let short = rows.min(columns);
            proptest::prop_assert_eq!(pairs.len(), short);
            let distinct: std::collections::BTreeSet<_> = pairs.iter().map(|pair| pair.1).collect();
            proptest::prop_assert_eq!(distinct.len(), short);
            proptest::prop_assert!(pairs.is_sorted());
            let best = brute_force(&score, 0, &mut vec![false; columns], short);
            proptest::prop_assert!((sum(&score, &pairs) - best).abs() < 1e-9);
        }
    }

    use proptest::prelude::{Just, Strategy};
}
