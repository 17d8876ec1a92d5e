//! Rows that see all media alike, whatever their queries: twin of the uniform case of [`otter_nn::MediaAttention`].

use std::collections::{BTreeMap, BTreeSet};

use crate::{Buffer, Launch, Result};

/// Writes rows of `out`: the mean of all latents of a row's items, zeros where it has none. `rows` lists rows with their
/// items; an item has `latents` rows of `width` in `v`.
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When a row or an item is not there, or a row is listed twice.
pub fn mean_rows(
    out: &mut Buffer<f32>,
    v: &Buffer<f32>,
    rows: &[(usize, &[usize])],
    latents: usize,
    width: usize,
) -> Result<()> {
    check(out, v, rows, latents, width);
    let distinct: BTreeSet<usize> = rows.iter().map(|&(row, _)| row).collect();
    assert_eq!(distinct.len(), rows.len(), "a row is listed twice");
    if rows.is_empty() {
        return Ok(());
    }
    let numbers: Vec<u32> = rows.iter().map(|&(row, _)| row as u32).collect();
    let mut starts = vec![0];
    let mut places = Vec::new();
    for (_, items) in rows {
        places.extend(items.iter().map(|&item| item as u32));
        starts.push(places.len() as u32);
    }
    let gpu = out.gpu().clone();
    let [numbers, starts, places] = [gpu.upload(&numbers)?, gpu.upload(&starts)?, gpu.upload(&places)?];
    let arguments = vec![
        (&*out).into(),
        v.into(),
        (&numbers).into(),
        (&starts).into(),
        (&places).into(),
        (latents as u32).into(),
        (width as u32).into(),
    ];
    let launch = Launch::blocks("media_mean", rows.len() as u32, arguments);
    // SAFETY: rows and items were checked; a row is written by its own blocks only.
    unsafe { gpu.launch(&over_columns(launch, width)) }
}

/// Adds to every latent of the items of every row the gradient of that row of [`mean_rows`]'s result, over the number of
/// latents that the row saw. What an item gets from several rows, or twice from one, is added in their order.
///
/// # Panics
/// When a row or an item is not there.
pub fn mean_rows_backward(
    dv: &mut Buffer<f32>,
    d_out: &Buffer<f32>,
    rows: &[(usize, &[usize])],
    latents: usize,
    width: usize,
) -> Result<()> {
    check(d_out, dv, rows, latents, width);
    let mut places_of: BTreeMap<u32, Vec<(u32, f32)>> = BTreeMap::new();
    for &(row, items) in rows {
        let factor = (1.0 / (items.len() * latents).max(1) as f64) as f32;
        for &item in items {
            places_of.entry(item as u32).or_default().push((row as u32, factor));
        }
    }
    let blocks = places_of.len().saturating_mul(latents);
    assert!(blocks < 1 << 31, "{} items of {latents} latents are too many", places_of.len());
    if blocks == 0 {
        return Ok(());
    }
    let items: Vec<u32> = places_of.keys().copied().collect();
    let mut starts = vec![0];
    let (mut numbers, mut factors) = (Vec::new(), Vec::new());
    for places in places_of.into_values() {
        numbers.extend(places.iter().map(|&(row, _)| row));
        factors.extend(places.iter().map(|&(_, factor)| factor));
        starts.push(numbers.len() as u32);
    }
    let gpu = dv.gpu().clone();
    let [items, starts, numbers] = [gpu.upload(&items)?, gpu.upload(&starts)?, gpu.upload(&numbers)?];
    let factors = gpu.upload(&factors)?;
    let arguments = vec![
        (&*dv).into(),
        d_out.into(),
        (&items).into(),
        (&starts).into(),
        (&numbers).into(),
        (&factors).into(),
        (latents as u32).into(),
        (width as u32).into(),
    ];
    let launch = Launch::blocks("media_mean_backward", blocks as u32, arguments);
    // SAFETY: rows and items were checked; a latent is written by its own blocks only.
    unsafe { gpu.launch(&over_columns(launch, width)) }
}

/// The blocks of a launch, times those that the columns of a row need.
fn over_columns(launch: Launch<'_>, width: usize) -> Launch<'_> {
    let columns = width.div_ceil(Launch::THREADS as usize);
    assert!(columns <= 65535, "rows of {width} are too wide");
    Launch { grid: [launch.grid[0], columns as u32, 1], ..launch }
}

fn check(out: &Buffer<f32>, v: &Buffer<f32>, rows: &[(usize, &[usize])], latents: usize, width: usize) {
    assert!(width > 0, "rows of no width");
    let there = (out.len() / width).min(u32::MAX as usize);
    assert!(rows.iter().all(|&(row, _)| row < there), "a row is not among {there}");
    // Of items without latents nothing is read.
    let there =
        v.len().checked_div(latents.saturating_mul(width)).unwrap_or(usize::MAX).min(u32::MAX as usize);
    assert!(
        rows.iter().all(|(_, items)| items.iter().all(|&item| item < there)),
        "an item is not among {there}"
    );
    let places = rows.iter().fold(0usize, |places, (_, items)| places.saturating_add(items.len()));
    assert!(rows.len() < 1 << 31 && places < 1 << 31, "{} rows with {places} items are too many", rows.len());
    assert!(latents < 1 << 31, "{latents} latents are too many");
}
