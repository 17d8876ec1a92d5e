//! Compiling a loop for several instruction sets and choosing one at run time.
//!
//! A closure handed to a function with wider instructions is not enough: the compiler may build the closure on its own,
//! for the oldest processor. [`vectorized!`](crate::vectorized) therefore makes functions whose body is always inlined.

/// Instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// AVX-512 with its byte, word, double-word and short-vector extensions.
    Avx512,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// What every processor of the architecture has.
    Baseline,
}

/// The widest instruction set of this processor.
#[inline]
pub fn instruction_set() -> InstructionSet {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                return InstructionSet::Avx512;
            }
            return InstructionSet::Avx2;
        }
    }
    InstructionSet::Baseline
}

/// Defines a function compiled for every [`InstructionSet`](crate::backend::cpu::vectorized::InstructionSet); a call runs
/// the widest one that the processor has. Functions called by the body must be `#[inline(always)]` to profit. Products
/// and sums are never fused, so every version gives the same bits.
#[macro_export]
macro_rules! vectorized {
    (
        $(#[$meta:meta])*
        $visibility:vis fn $name:ident<$($generic:ident: $bound:path),*>(
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $output:ty)? $body:block
    ) => {
        $(#[$meta])*
        $visibility fn $name<$($generic: $bound),*>($($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            fn body<$($generic: $bound),*>($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")]
                fn avx512<$($generic: $bound),*>($($argument: $type),*) $(-> $output)? {
                    body::<$($generic),*>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$($generic: $bound),*>($($argument: $type),*) $(-> $output)? {
                    body::<$($generic),*>($($argument),*)
                }
                use $crate::backend::cpu::vectorized::{InstructionSet, instruction_set};
                match instruction_set() {
                    // SAFETY: the processor was just asked for these instructions.
                    InstructionSet::Avx512 => return unsafe { avx512::<$($generic),*>($($argument),*) },
                    // SAFETY: as above.
                    InstructionSet::Avx2 => return unsafe { avx2::<$($generic),*>($($argument),*) },
                    InstructionSet::Baseline => {}
                }
            }
            body::<$($generic),*>($($argument),*)
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::Float;

    vectorized! {
        fn sum_of_products<T: Float>(a: &[T], b: &[T]) -> T {
            crate::backend::cpu::sum_pairs(a, b, |x, y| x * y)
        }
    }

    /// The version chosen here against the plain one, bit by bit.
    #[test]
    fn every_version_gives_the_same_bits() {
        let a: Vec<f32> = (0..1003).map(|i| ((i * 7919) % 1013) as f32 * 1e-3).collect();
        let b: Vec<f32> = (0..1003).map(|i| ((i * 104_729) % 997) as f32 * 1e-3 - 0.4).collect();
        let plain = crate::backend::cpu::sum_pairs(&a, &b, |x, y| x * y);
        assert_eq!(sum_of_products(&a, &b).to_bits(), plain.to_bits());
    }
}
