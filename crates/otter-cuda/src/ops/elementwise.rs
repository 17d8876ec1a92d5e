//! Activations, sums and gates: twins of [`otter_nn::backend::cpu::elementwise`].

use crate::Argument;
use crate::{Buffer, Launch, Result};

/// A pointwise activation, as in [`otter_nn::backend::cpu::elementwise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x times the standard normal distribution function.
    Gelu = 0,
    /// The same approximated with tanh.
    GeluTanh = 1,
    /// x sigmoid(1.702 x).
    QuickGelu = 2,
    /// x where it is positive.
    Relu = 3,
}

/// Stretches that are summed by themselves: fixed, so that sums do not depend on the GPU.
const PARTS: u32 = 256;

fn run(y: &Buffer<f32>, kernel: &str, lengths: &[usize], arguments: Vec<Argument>) -> Result<()> {
    assert!(lengths.iter().all(|&len| len == y.len()), "{kernel}: lengths {lengths:?}, not {}", y.len());
    if y.is_empty() {
        return Ok(());
    }
    // SAFETY: the kernels of this file touch as many elements as all their buffers have (checked above).
    unsafe { y.gpu().launch(&Launch::over(kernel, y.len(), arguments)) }
}

/// `y += factor x`.
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When lengths differ; so for all functions here.
pub fn add_scaled(y: &mut Buffer<f32>, x: &Buffer<f32>, factor: f32) -> Result<()> {
    run(y, "add_scaled", &[x.len()], vec![(&*y).into(), x.into(), factor.into(), y.len().into()])
}

/// `x *= factor`.
pub fn scale(x: &mut Buffer<f32>, factor: f32) -> Result<()> {
    run(x, "scale", &[], vec![(&*x).into(), factor.into(), x.len().into()])
}

/// Adds `bias` to every row of `x` (rows, bias).
pub fn add_bias(x: &mut Buffer<f32>, bias: &Buffer<f32>) -> Result<()> {
    assert!(x.len().is_multiple_of(bias.len()), "{} elements are no rows of {}", x.len(), bias.len());
    run(x, "add_bias", &[], vec![(&*x).into(), bias.into(), (bias.len() as u32).into(), x.len().into()])
}

/// `activation(x)`.
pub fn activate(x: &Buffer<f32>, activation: Activation) -> Result<Buffer<f32>> {
    let y = x.gpu().allocate(x.len())?;
    run(&y, "activate", &[], vec![(&y).into(), x.into(), (activation as u32).into(), x.len().into()])?;
    Ok(y)
}

/// Turns the gradient of `activation(x)` into that of `x`, in place.
pub fn activate_backward(d: &mut Buffer<f32>, x: &Buffer<f32>, activation: Activation) -> Result<()> {
    let arguments = vec![(&*d).into(), x.into(), (activation as u32).into(), x.len().into()];
    run(d, "activate_backward", &[x.len()], arguments)
}

/// `silu(gate) up`.
pub fn silu_product(gate: &Buffer<f32>, up: &Buffer<f32>) -> Result<Buffer<f32>> {
    let y = gate.gpu().allocate(gate.len())?;
    let arguments = vec![(&y).into(), gate.into(), up.into(), gate.len().into()];
    run(&y, "silu_product", &[gate.len(), up.len()], arguments)?;
    Ok(y)
}

/// Gradients of [`silu_product`]: `d_up` holds the product's on entry and that of `up` on return; returned is that of `gate`.
pub fn silu_product_backward(
    gate: &Buffer<f32>,
    up: &Buffer<f32>,
    d_up: &mut Buffer<f32>,
) -> Result<Buffer<f32>> {
    let d_gate = gate.gpu().allocate(gate.len())?;
    let arguments = vec![(&d_gate).into(), (&*d_up).into(), gate.into(), up.into(), gate.len().into()];
    run(&d_gate, "silu_product_backward", &[d_up.len(), gate.len(), up.len()], arguments)?;
    Ok(d_gate)
}

/// `y += branch tanh(gate)`, the gate a single number.
pub fn gate_add(y: &mut Buffer<f32>, branch: &Buffer<f32>, gate: &Buffer<f32>) -> Result<()> {
    assert_eq!(gate.len(), 1, "a gate is one number");
    run(y, "gate_add", &[branch.len()], vec![(&*y).into(), branch.into(), gate.into(), y.len().into()])
}

/// Gradient of the branch of [`gate_add`] from that of its result; adds the gate's to `d_gate`, if there is one.
pub fn gate_backward(
    branch: &Buffer<f32>,
    gate: &Buffer<f32>,
    dy: &Buffer<f32>,
    d_gate: Option<&mut Buffer<f32>>,
) -> Result<Buffer<f32>> {
    assert_eq!(gate.len(), 1, "a gate is one number");
    let d_branch = dy.gpu().allocate(dy.len())?;
    let arguments = vec![(&d_branch).into(), dy.into(), gate.into(), dy.len().into()];
    run(&d_branch, "gate_backward", &[dy.len(), branch.len()], arguments)?;
    if let Some(d_gate) = d_gate {
        assert_eq!(d_gate.len(), 1, "a gate is one number");
        let mut parts = dy.gpu().allocate(PARTS as usize)?;
        dot_parts(&mut parts, 0, dy, branch)?;
        let arguments = vec![(&*d_gate).into(), (&parts).into(), gate.into(), PARTS.into()];
        // SAFETY: one gate, and as many parts as said.
        unsafe { dy.gpu().launch(&Launch::blocks("gate_gradient", 1, arguments)) }?;
    }
    Ok(d_branch)
}

/// Limits all elements to plus or minus `limit`; NaN stays.
pub fn clamp(x: &mut Buffer<f32>, limit: f32) -> Result<()> {
    run(x, "clamp", &[], vec![(&*x).into(), limit.into(), x.len().into()])
}

/// Turns the gradient of [`clamp`]'s output `clamped` into that of its input, in place: nothing passes at a limit.
pub fn clamp_backward(d: &mut Buffer<f32>, clamped: &Buffer<f32>, limit: f32) -> Result<()> {
    let arguments = vec![(&*d).into(), clamped.into(), limit.into(), d.len().into()];
    run(d, "clamp_backward", &[clamped.len()], arguments)
}

/// Writes the sums of products of [`PARTS`] stretches from part `first` on.
fn dot_parts(parts: &mut Buffer<f32>, first: usize, a: &Buffer<f32>, b: &Buffer<f32>) -> Result<()> {
    assert_eq!(a.len(), b.len(), "lengths differ");
    assert!(first + PARTS as usize <= parts.len(), "parts from {first} on of {}", parts.len());
    let arguments = vec![(&*parts).into(), first.into(), a.into(), b.into(), a.len().into()];
    // SAFETY: there is room for as many parts as blocks; both operands have the length that is given.
    unsafe { a.gpu().launch(&Launch::blocks("dot_parts", PARTS, arguments)) }
}

/// Sums of the squares of each of `buffers`, all on one GPU: parts in f32, added in double precision by the host. One
/// download serves them all.
pub fn sums_of_squares(buffers: &[&Buffer<f32>]) -> Result<Vec<f64>> {
    let Some(first) = buffers.first() else { return Ok(Vec::new()) };
    let mut parts = first.gpu().allocate(buffers.len() * PARTS as usize)?;
    for (place, buffer) in buffers.iter().enumerate() {
        dot_parts(&mut parts, place * PARTS as usize, buffer, buffer)?;
    }
    let sum = |parts: &[f32]| parts.iter().copied().map(f64::from).sum();
    Ok(parts.download()?.chunks_exact(PARTS as usize).map(sum).collect())
}

/// Whether any element is not zero. NaN is not zero.
pub fn any_nonzero(x: &Buffer<f32>) -> Result<bool> {
    if x.is_empty() {
        return Ok(false);
    }
    let launch = Launch::over("any_nonzero", x.len(), Vec::new());
    let found: Buffer<u8> = x.gpu().allocate(launch.grid[0] as usize)?;
    let arguments = vec![(&found).into(), x.into(), x.len().into()];
    // SAFETY: a byte for each block; as many elements as given.
    unsafe { x.gpu().launch(&Launch { arguments, ..launch }) }?;
    Ok(found.download()?.into_iter().any(|found| found != 0))
}

/// Zeroes the rows of `x`, of `width` each, that are not among `rows`.
pub fn keep_rows(x: &mut Buffer<f32>, rows: &[u32], width: usize) -> Result<()> {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} elements are no rows of {width}", x.len());
    let mut kept = vec![0u8; x.len() / width];
    for &row in rows {
        assert!((row as usize) < kept.len(), "row {row} of {}", kept.len());
        kept[row as usize] = 1;
    }
    if kept.is_empty() {
        return Ok(());
    }
    let on_gpu = x.gpu().upload(&kept)?;
    let arguments = vec![(&*x).into(), (&on_gpu).into(), kept.len().into(), width.into()];
    let blocks = kept.len().min(1 << 20) as u32;
    // SAFETY: a byte for each row.
    unsafe { x.gpu().launch(&Launch::blocks("keep_rows", blocks, arguments)) }
}
