//! Decodes the commonest parquet page: version 1, plain byte arrays, levels in the run-length and bit-packed hybrid.
//!
//! ```text
//! [repetition levels: length u32, runs]  if the column has lists
//! [definition levels: length u32, runs]  if anything of the column can be absent
//! values: { length u32, bytes } …
//! ```
//!
//! Our own shards have only such pages. Every length is checked, where the parquet library asserts.

use parquet::errors::ParquetError;

use crate::files::parquet::page_cache::Span;

/// Repetition levels, definition levels, and where the values that are present stand in the page.
pub(crate) type Levels = (Vec<i16>, Vec<i16>, Vec<Span>);

/// Decodes a page of `count` values (absent ones included) of a column with these highest levels.
pub(crate) fn decode(
    page: &[u8],
    count: usize,
    (max_repetition, max_definition): (i16, i16),
) -> Result<Levels, ParquetError> {
    if u32::try_from(page.len()).is_err() {
        return Err(damaged("it is larger than 4 GiB"));
    }
    let mut at = 0;
    let repetition =
        if max_repetition > 0 { levels(page, &mut at, count, max_repetition)? } else { Vec::new() };
    let definition =
        if max_definition > 0 { levels(page, &mut at, count, max_definition)? } else { Vec::new() };
    let present = match max_definition {
        0 => count,
        _ => definition.iter().filter(|&&level| level == max_definition).count(),
    };
    if present > (page.len() - at) / 4 {
        return Err(damaged("more values are announced than the page has room for"));
    }
    let mut values = Vec::with_capacity(present);
    for _ in 0..present {
        let length = number(page, &mut at)?;
        let end = at.checked_add(length).filter(|&end| end <= page.len());
        let end = end.ok_or_else(|| damaged("a value reaches beyond the page"))?;
        values.push(Span { start: at as u32, end: end as u32 });
        at = end;
    }
    Ok((repetition, definition, values))
}

fn damaged(what: &str) -> ParquetError {
    ParquetError::General(format!("the page is damaged: {what}"))
}

fn number(page: &[u8], at: &mut usize) -> Result<usize, ParquetError> {
    match page.get(*at..).and_then(<[u8]>::first_chunk::<4>) {
        Some(bytes) => {
            *at += 4;
            Ok(u32::from_le_bytes(*bytes) as usize)
        }
        None => Err(damaged("it ends inside a length")),
    }
}

/// `count` levels up to `max`, and the position after them.
fn levels(page: &[u8], at: &mut usize, count: usize, max: i16) -> Result<Vec<i16>, ParquetError> {
    let length = number(page, at)?;
    let end = at.checked_add(length).filter(|&end| end <= page.len());
    let end = end.ok_or_else(|| damaged("the levels reach beyond the page"))?;
    let mut runs = &page[*at..end];
    *at = end;
    let width = (i16::BITS - max.leading_zeros()) as usize;
    let mut levels = Vec::with_capacity(count);
    while levels.len() < count {
        let header = variable_length(&mut runs)?;
        let missing = count - levels.len();
        if header & 1 == 0 {
            // A run of one level, in as many bytes as its bits need.
            let bytes = width.div_ceil(8);
            let value = runs.get(..bytes).ok_or_else(|| damaged("the levels end early"))?;
            let level = value.iter().rev().fold(0, |level, &byte| (level << 8) | i16::from(byte));
            runs = &runs[bytes..];
            let repeat = (header >> 1).min(missing as u64) as usize;
            if repeat == 0 || level > max {
                return Err(damaged("a run of levels is empty or too high"));
            }
            levels.resize(levels.len() + repeat, level);
        } else {
            // Groups of eight levels, packed from the lowest bit on.
            let groups = usize::try_from(header >> 1).map_err(|_| damaged("too many levels"))?;
            let packed = groups.checked_mul(width).and_then(|bytes| runs.get(..bytes));
            let packed =
                packed.filter(|packed| !packed.is_empty()).ok_or_else(|| damaged("the levels end early"))?;
            runs = &runs[packed.len()..];
            for place in 0..(groups * 8).min(missing) {
                let level = (0..width).fold(0_i16, |level, bit| {
                    let bit_place = place * width + bit;
                    let is_set = packed[bit_place / 8] >> (bit_place % 8) & 1;
                    level | i16::from(is_set) << bit
                });
                if level > max {
                    return Err(damaged("a level is too high"));
                }
                levels.push(level);
            }
        }
    }
    Ok(levels)
}

fn variable_length(bytes: &mut &[u8]) -> Result<u64, ParquetError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = bytes.split_first() else { break };
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged("the levels end early"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn runs_and_packed_groups() {
        // Definition levels up to 3: a run of 5 threes, then 8 packed of two bits.
        let packed = [0b11_10_01_00, 0b00_01_10_11];
        let mut page = vec![5, 0, 0, 0, 5 << 1, 3, (1 << 1) | 1, packed[0], packed[1]];
        for value in ["a", "", "ccc", "d", "e", "f", "g"] {
            page.extend((value.len() as u32).to_le_bytes());
            page.extend(value.as_bytes());
        }
        let (repetition, definition, values) = decode(&page, 13, (0, 3)).unwrap();
        assert!(repetition.is_empty());
        assert_eq!(definition, [3, 3, 3, 3, 3, 0, 1, 2, 3, 3, 2, 1, 0]);
        assert_eq!(values.len(), 7);
        assert_eq!(&page[values[2].start as usize..values[2].end as usize], b"ccc");
        for end in 0..page.len() {
            assert!(decode(&page[..end], 13, (0, 3)).is_err(), "cut at {end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled_without_panic(
            page in proptest::collection::vec(0_u8.., 0..100), count in 0..2000_usize, max in 0..4_i16, lists in 0..2_i16
        ) {
            let _ = decode(&page, count, (lists, max));
        }
    }
}
