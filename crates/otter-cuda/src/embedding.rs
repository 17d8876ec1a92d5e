//! Rows of a table: twin of [`otter_nn::Embedding`].

use std::collections::BTreeMap;

use crate::{Buffer, Launch, Result};

/// Rows `ids` of a table of rows of `width`.
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When an id is outside the table; so for all functions here.
pub fn rows(table: &Buffer<f32>, ids: &[u32], width: usize) -> Result<Buffer<f32>> {
    check(table, ids, width);
    let out = table.gpu().allocate(ids.len() * width)?;
    if !ids.is_empty() {
        let on_card = table.gpu().upload(ids)?;
        let arguments = vec![(&out).into(), table.into(), (&on_card).into(), (width as u32).into()];
        // SAFETY: a block an id; ids were checked.
        unsafe { table.gpu().launch(&Launch::blocks("embedding_rows", ids.len() as u32, arguments)) }?;
    }
    Ok(out)
}

/// Adds the rows of `dy` to rows `ids` of the table's gradient, those of one id in their order.
pub fn backward(d_table: &mut Buffer<f32>, dy: &Buffer<f32>, ids: &[u32], width: usize) -> Result<()> {
    check(d_table, ids, width);
    assert_eq!(dy.len(), ids.len() * width, "a row of gradients for each id");
    if ids.is_empty() {
        return Ok(());
    }
    let mut places_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (place, &id) in (0..).zip(ids) {
        places_of.entry(id).or_default().push(place);
    }
    let distinct: Vec<u32> = places_of.keys().copied().collect();
    let mut starts = vec![0];
    let mut places = Vec::with_capacity(ids.len());
    for of_id in places_of.into_values() {
        places.extend(of_id);
        starts.push(places.len() as u32);
    }
    let gpu = d_table.gpu().clone();
    let [on_card, starts, places] = [gpu.upload(&distinct)?, gpu.upload(&starts)?, gpu.upload(&places)?];
    let arguments = vec![
        (&*d_table).into(),
        dy.into(),
        (&on_card).into(),
        (&starts).into(),
        (&places).into(),
        (width as u32).into(),
    ];
    // SAFETY: a block a distinct id; ids were checked, and places are rows of `dy`.
    unsafe { gpu.launch(&Launch::blocks("embedding_backward", distinct.len() as u32, arguments)) }
}

fn check(table: &Buffer<f32>, ids: &[u32], width: usize) {
    let rows = table.len() / width;
    assert!(ids.iter().all(|&id| (id as usize) < rows), "an id is outside a table of {rows} rows");
}
