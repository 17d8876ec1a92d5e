//! Weights published as a difference to a base: result = base + delta, tensor by tensor.

use crate::convert::elements::rows;
use crate::convert::plan::{Part, PlannedTensor, widest};
use crate::convert::source::Source;
use crate::directory::weights::list;
use crate::error::{CheckpointError, Result};
use otter_formats::StoredDType;

/// Plans the sum. A tensor of the delta with more rows than the base's gets the base's rows added to its first ones; what
/// the base does not have at all is taken from the delta.
///
/// # Errors
/// When the base has a tensor that the delta lacks, or shapes differ in more than rows.
pub(in crate::convert) fn apply(
    base: &Source,
    delta: &Source,
    warnings: &mut Vec<String>,
) -> Result<Vec<PlannedTensor>> {
    let missing: Vec<&str> = base
        .names()
        .filter(|name| {
            delta.get(name).is_none() && crate::directory::account::reason_to_ignore(name).is_none()
        })
        .collect();
    if !missing.is_empty() {
        let base = base.path.display();
        let problem = format!("the delta lacks tensors of {base}:{}", list(&missing));
        return Err(CheckpointError::format(&delta.path, problem));
    }
    let mut own = Vec::new();
    let mut planned = Vec::with_capacity(delta.tensors.len());
    for (name, change) in &delta.tensors {
        let Some(start) = base.get(name).filter(|_| !is_integer(change.dtype)) else {
            own.push(name.as_str());
            planned.push(PlannedTensor::copy(name.clone(), name, change));
            continue;
        };
        let same_rows =
            change.shape.get(1..) == start.shape.get(1..) && change.shape.len() == start.shape.len();
        let (new, old) =
            (change.shape.first().copied().unwrap_or(0), start.shape.first().copied().unwrap_or(0));
        if !same_rows || new < old {
            let problem = format!("shape {:?}; the base has {:?}", change.shape, start.shape);
            return Err(CheckpointError::tensor(&delta.path, name, problem));
        }
        let (left, right) = (rows(change, name, 0..old)?, start.clone());
        let mut parts = vec![Part::Sum { name: name.clone(), left, right }];
        if new > old {
            parts.push(Part::stored(name, &rows(change, name, old..new)?));
        }
        let dtype = widest([change.dtype, start.dtype]);
        planned.push(PlannedTensor { name: name.clone(), dtype, shape: change.shape.clone(), parts });
    }
    if !own.is_empty() {
        warnings
            .push(format!("taken from the delta as they are, the base does not have them:{}", list(&own)));
    }
    Ok(planned)
}

fn is_integer(dtype: StoredDType) -> bool {
    !matches!(dtype, StoredDType::F32 | StoredDType::F16 | StoredDType::Bf16 | StoredDType::F64)
}
