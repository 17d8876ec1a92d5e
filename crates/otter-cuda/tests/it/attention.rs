//! Attention against the host's, which here computes in double precision.

use crate::common::{assert_close, gpu, numbers, on};
use otter_cuda::Constant;
use otter_cuda::attention::{self as gpu_attention, ForwardResult, InputGradients, Inputs};
use otter_nn::backend::cpu::attention::{self, HeadStrides, Span};

const OUT_TOLERANCE: f32 = 1e-6;
const GRADIENT_TOLERANCE: f32 = 2e-6;

struct Case {
    name: &'static str,
    heads: usize,
    key_heads: usize,
    head_size: usize,
    batch: usize,
    rows: usize,
    keys: usize,
    /// Rows that an entry of keys has room for.
    capacity: usize,
    by_head: bool,
    slopes: bool,
    visible: Option<Vec<bool>>,
    spans: Vec<Span>,
}

impl Case {
    /// Two entries of rows and keys; every row sees all its entry's keys, or those up to an offset from its own place.
    fn new(name: &'static str, rows: usize, keys: usize, causal_offset: Option<usize>) -> Self {
        let span = |b| Span { batch: b, row: 0, rows, key_batch: b, key_row: 0, keys, causal_offset };
        let (heads, key_heads, head_size, batch) = (4, 2, 6, 2);
        let spans = (0..batch).map(span).collect();
        let (capacity, by_head, slopes, visible) = (keys, false, false, None);
        Self {
            name,
            heads,
            key_heads,
            head_size,
            batch,
            rows,
            keys,
            capacity,
            by_head,
            slopes,
            visible,
            spans,
        }
    }

    fn check(&self) {
        let gpu = gpu();
        let (width, key_width) = (self.heads * self.head_size, self.key_heads * self.head_size);
        let q_strides = HeadStrides::new(self.rows, width, self.head_size);
        let strides_of = if self.by_head { HeadStrides::by_head } else { HeadStrides::new };
        let k_strides = strides_of(self.capacity, key_width, self.head_size);
        let d_strides = HeadStrides::new(self.keys, key_width, self.head_size);
        let of_rows = self.batch * self.rows * width;
        let (of_keys, of_gradients) =
            (self.batch * self.capacity * key_width, self.batch * self.keys * key_width);
        let (q, k, v, dy) =
            (numbers(of_rows, 1), numbers(of_keys, 2), numbers(of_keys, 3), numbers(of_rows, 4));
        let slopes =
            self.slopes.then(|| (0..self.heads).map(|head| 0.5f32.powi(head as i32 + 1)).collect::<Vec<_>>());
        let scale = 1.0 / (self.head_size as f64).sqrt();

        let double = |x: &[f32]| x.iter().copied().map(f64::from).collect::<Vec<_>>();
        let single = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let (q_double, k_double, v_double, dy_double) = (double(&q), double(&k), double(&v), double(&dy));
        let slopes_double = slopes.as_deref().map(double);
        let heads = attention::Heads {
            heads: self.heads,
            key_heads: self.key_heads,
            scale,
            slopes: slopes_double.as_deref(),
        };
        let inputs = attention::Inputs {
            q: &q_double,
            q_strides,
            k: &k_double,
            k_strides,
            v: &v_double,
            v_strides: k_strides,
            visible: self.visible.as_deref().map(|visible| (visible, self.keys)),
        };
        // What is in no span keeps what it had.
        let mut out = vec![0.5f64; of_rows];
        let mut log_sum_exp = vec![0.25f64; self.batch * self.heads * self.rows];
        attention::forward(
            heads,
            inputs,
            &self.spans,
            &mut out,
            q_strides,
            Some((&mut log_sum_exp, self.rows)),
        );
        let (mut dq, mut dk, mut dv) =
            (vec![1.0f64; of_rows], vec![0.5; of_gradients], vec![-1.0; of_gradients]);
        let result = attention::ForwardResult {
            out: &out,
            d_out: &dy_double,
            strides: q_strides,
            log_sum_exp: &log_sum_exp,
            rows_per_batch: self.rows,
        };
        let gradients = attention::InputGradients {
            dq: &mut dq,
            dk: &mut dk,
            dk_strides: d_strides,
            dv: &mut dv,
            dv_strides: d_strides,
        };
        attention::backward(heads, inputs, &self.spans, result, gradients);

        let (q, k, v, dy) = (on(&gpu, &q), on(&gpu, &k), on(&gpu, &v), on(&gpu, &dy));
        let slopes = slopes.map(|slopes| gpu.constant(&slopes).expect("memory"));
        let visible: Option<Constant<u8>> = self.visible.as_ref().map(|visible| {
            gpu.constant(&visible.iter().map(|&visible| u8::from(visible)).collect::<Vec<_>>())
                .expect("memory")
        });
        let sizes = gpu_attention::Heads {
            heads: self.heads,
            key_heads: self.key_heads,
            scale,
            slopes: slopes.as_ref(),
        };
        let visible = visible.as_ref().map(|visible| (visible, self.keys));
        let inputs = Inputs { q: &q, q_strides, k: &k, k_strides, v: &v, v_strides: k_strides, visible };
        let mut found = on(&gpu, &vec![0.5; of_rows]);
        let mut found_log_sum_exp = on(&gpu, &vec![0.25; log_sum_exp.len()]);
        let sums = Some((&mut found_log_sum_exp, self.rows));
        gpu_attention::forward(&sizes, &inputs, &self.spans, &mut found, q_strides, sums).expect("a launch");
        assert_close(&found, &single(&out), OUT_TOLERANCE, &format!("{}, output", self.name));
        assert_close(
            &found_log_sum_exp,
            &single(&log_sum_exp),
            OUT_TOLERANCE,
            &format!("{}, log-sum-exp", self.name),
        );

        let result = ForwardResult {
            out: &found,
            d_out: &dy,
            strides: q_strides,
            log_sum_exp: &found_log_sum_exp,
            rows_per_batch: self.rows,
        };
        let mut found_dq = on(&gpu, &vec![1.0; of_rows]);
        let mut found_dk = on(&gpu, &vec![0.5; of_gradients]);
        let mut found_dv = on(&gpu, &vec![-1.0; of_gradients]);
        let mut gradients = InputGradients {
            dq: &mut found_dq,
            dk: &mut found_dk,
            dk_strides: d_strides,
            dv: &mut found_dv,
            dv_strides: d_strides,
        };
        gpu_attention::backward(&sizes, &inputs, &self.spans, &result, &mut gradients).expect("launches");
        assert_close(&found_dq, &single(&dq), GRADIENT_TOLERANCE, &format!("{}, queries", self.name));
        assert_close(&found_dk, &single(&dk), GRADIENT_TOLERANCE, &format!("{}, keys", self.name));
        assert_close(&found_dv, &single(&dv), GRADIENT_TOLERANCE, &format!("{}, values", self.name));
    }
}

/// Hides the first two keys, so that causal rows 0 and 1 of entry 0 see nothing, and the last.
fn padding(keys: usize) -> Option<Vec<bool>> {
    let mut visible = vec![true; 2 * keys];
    (visible[0], visible[1], visible[2 * keys - 1]) = (false, false, false);
    Some(visible)
}

#[test]
fn all_keys() {
    for (rows, keys) in [(1, 5), (3, 3), (37, 37), (70, 70)] {
        Case::new("all", rows, keys, None).check();
    }
    Case { head_size: 64, ..Case::new("all, heads of 64", 5, 67, None) }.check();
    Case { head_size: 80, ..Case::new("all, heads of 80", 67, 5, None) }.check();
}

#[test]
fn causal_rows() {
    for (rows, keys) in [(1, 1), (3, 3), (37, 37), (70, 70)] {
        Case { slopes: rows == 37, ..Case::new("causal", rows, keys, Some(0)) }.check();
    }
    Case { head_size: 80, ..Case::new("causal, heads of 80", 37, 37, Some(0)) }.check();
    // Three tiles, and heads without quads.
    Case { heads: 2, key_heads: 1, ..Case::new("causal, three tiles", 130, 130, Some(0)) }.check();
    Case { heads: 2, key_heads: 1, head_size: 65, ..Case::new("causal, heads of 65", 66, 70, Some(4)) }
        .check();
}

#[test]
fn rows_after_a_cache() {
    for (rows, keys) in [(1, 5), (3, 90), (37, 70)] {
        let case = Case::new("cache", rows, keys, Some(keys - rows));
        let case = Case { by_head: true, capacity: keys + 3, slopes: true, ..case };
        case.check();
        if rows < 37 {
            Case { head_size: 128, by_head: rows == 3, ..case }.check();
        }
    }
}

#[test]
fn hidden_keys() {
    for (rows, causal) in [(3, true), (3, false), (37, true), (70, true)] {
        let case = Case::new("hidden", rows, rows, causal.then_some(0));
        Case { visible: padding(rows), slopes: causal, ..case }.check();
    }
    // Nothing is visible at all.
    Case { visible: Some(vec![false; 10]), ..Case::new("all hidden", 5, 5, None) }.check();
    Case { visible: Some(vec![false; 10]), ..Case::new("all hidden from one row", 1, 5, None) }.check();
}

#[test]
fn segments_of_rows() {
    let segment = |batch, row, rows| Span {
        batch,
        row,
        rows,
        key_batch: batch,
        key_row: row,
        keys: rows,
        causal_offset: Some(0),
    };
    let spans = vec![segment(0, 0, 13), segment(0, 13, 20), segment(1, 1, 12), segment(1, 14, 66)];
    Case { spans, slopes: true, ..Case::new("segments", 80, 80, None) }.check();
}

#[test]
fn several_spans_of_the_same_keys() {
    let span = |batch, row, rows, key_batch, key_row, keys| Span {
        batch,
        row,
        rows,
        key_batch,
        key_row,
        keys,
        causal_offset: None,
    };
    // In an order of their own, some with fewer of the keys than others.
    let spans = vec![
        span(1, 0, 5, 0, 8, 3),
        span(0, 2, 7, 0, 0, 8),
        span(0, 9, 11, 0, 8, 70),
        span(1, 5, 2, 0, 0, 6),
        span(1, 12, 8, 1, 5, 9),
    ];
    Case { spans, key_heads: 4, ..Case::new("media", 20, 80, None) }.check();
}

#[test]
fn one_key_head_for_all() {
    Case { key_heads: 1, ..Case::new("one key head", 7, 9, Some(2)) }.check();
    Case { key_heads: 1, head_size: 4, ..Case::new("one key head", 2, 9, Some(7)) }.check();
}

#[test]
fn spans_without_keys_give_zeros() {
    let gpu = gpu();
    let strides = HeadStrides::new(5, 4, 4);
    let x = on(&gpu, &numbers(20, 1));
    let sizes = gpu_attention::Heads { heads: 1, key_heads: 1, scale: 0.5, slopes: None };
    let inputs = Inputs {
        q: &x,
        q_strides: strides,
        k: &x,
        k_strides: strides,
        v: &x,
        v_strides: strides,
        visible: None,
    };
    for rows in [2, 5] {
        let span = Span { batch: 0, row: 0, rows, key_batch: 0, key_row: 0, keys: 0, causal_offset: None };
        let (mut out, mut log_sum_exp) = (on(&gpu, &[1.0; 20]), on(&gpu, &[1.0; 5]));
        let sums = Some((&mut log_sum_exp, 5));
        gpu_attention::forward(&sizes, &inputs, &[span], &mut out, strides, sums).expect("a launch");
        let expected: Vec<f32> = (0..20).map(|i| f32::from(u8::from(i >= 4 * rows))).collect();
        assert_close(&out, &expected, 0.0, "output");
        let expected: Vec<f32> = (0..5).map(|row| f32::from(u8::from(row >= rows))).collect();
        assert_close(&log_sum_exp, &expected, 0.0, "log-sum-exp");
        let result =
            ForwardResult { out: &out, d_out: &x, strides, log_sum_exp: &log_sum_exp, rows_per_batch: 5 };
        let (mut dq, mut dk, mut dv) = (on(&gpu, &[1.0; 20]), on(&gpu, &[1.0; 20]), on(&gpu, &[1.0; 20]));
        let mut gradients = InputGradients {
            dq: &mut dq,
            dk: &mut dk,
            dk_strides: strides,
            dv: &mut dv,
            dv_strides: strides,
        };
        gpu_attention::backward(&sizes, &inputs, &[span], &result, &mut gradients).expect("launches");
        for gradient in [&dq, &dk, &dv] {
            assert_close(gradient, &[1.0; 20], 0.0, "gradients");
        }
    }
}

fn refused(spans: &[Span]) {
    let gpu = gpu();
    let strides = HeadStrides::new(8, 4, 4);
    let x = on(&gpu, &numbers(32, 1));
    let sizes = gpu_attention::Heads { heads: 1, key_heads: 1, scale: 0.5, slopes: None };
    let inputs = Inputs {
        q: &x,
        q_strides: strides,
        k: &x,
        k_strides: strides,
        v: &x,
        v_strides: strides,
        visible: None,
    };
    let log_sum_exp = on(&gpu, &[0.0; 8]);
    let result = ForwardResult { out: &x, d_out: &x, strides, log_sum_exp: &log_sum_exp, rows_per_batch: 8 };
    let (mut dq, mut dk, mut dv) = (on(&gpu, &[0.0; 32]), on(&gpu, &[0.0; 32]), on(&gpu, &[0.0; 32]));
    let mut gradients =
        InputGradients { dq: &mut dq, dk: &mut dk, dk_strides: strides, dv: &mut dv, dv_strides: strides };
    gpu_attention::backward(&sizes, &inputs, spans, &result, &mut gradients).expect("launches");
}

const SPAN: Span = Span { batch: 0, row: 0, rows: 4, key_batch: 0, key_row: 0, keys: 4, causal_offset: None };

#[test]
#[should_panic(expected = "blocks of keys overlap")]
fn overlapping_blocks_of_keys_are_refused() {
    refused(&[SPAN, Span { row: 4, key_row: 3, ..SPAN }]);
}

#[test]
#[should_panic(expected = "the first query stands before all keys")]
fn rows_before_all_keys_are_refused() {
    refused(&[Span { key_row: 3, causal_offset: Some(2), ..SPAN }]);
}

#[test]
#[should_panic(expected = "too short")]
fn keys_that_are_not_there_are_refused() {
    refused(&[Span { keys: 9, ..SPAN }]);
}

/// What is not finite stays so, in the rows, heads and features where the host has it.
#[test]
fn numbers_that_are_not_finite_stay_visible() {
    let gpu = gpu();
    let (heads, size, scale) = (2, 6, 0.4);
    for rows in [1, 5, 70] {
        let strides = HeadStrides::new(rows, heads * size, size);
        let good: [Vec<f32>; 3] = std::array::from_fn(|i| numbers(rows * heads * size, i as u64 + 1));
        for causal_offset in [None, Some(0)] {
            let spans =
                [Span { batch: 0, row: 0, rows, key_batch: 0, key_row: 0, keys: rows, causal_offset }];
            for (operand, bad) in [
                (0, f32::NAN),
                (1, f32::NAN),
                (2, f32::NAN),
                (0, f32::INFINITY),
                (0, f32::NEG_INFINITY),
                (2, f32::INFINITY),
            ] {
                for place in [0, rows / 2] {
                    let mut all = good.clone();
                    all[operand][place * heads * size + 1] = bad;
                    let [q, k, v] = &all;
                    let sizes = attention::Heads { heads, key_heads: heads, scale, slopes: None };
                    let (q_strides, k_strides, v_strides) = (strides, strides, strides);
                    let inputs =
                        attention::Inputs { q, q_strides, k, k_strides, v, v_strides, visible: None };
                    let mut expected = vec![0.0f32; q.len()];
                    attention::forward(sizes, inputs, &spans, &mut expected, strides, None);
                    assert!(expected.iter().any(|out| !out.is_finite()), "operand {operand}, {bad}");
                    let [q, k, v] = [q, k, v].map(|x| on(&gpu, x));
                    let sizes = gpu_attention::Heads { heads, key_heads: heads, scale, slopes: None };
                    let inputs =
                        Inputs { q: &q, q_strides, k: &k, k_strides, v: &v, v_strides, visible: None };
                    let mut found = on(&gpu, &expected);
                    gpu_attention::forward(&sizes, &inputs, &spans, &mut found, strides, None)
                        .expect("a launch");
                    let found = found.download().expect("a download");
                    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let what = format!("{rows} rows, operand {operand}, {bad} at {place}: {at}");
                        assert_eq!(found.is_finite(), expected.is_finite(), "{what}");
                    }
                }
            }
        }
    }
}
