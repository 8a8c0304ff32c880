//! What [`Part`] does with eight features, by AVX2: what the compiler makes of it takes up to half as long again.
//!
//! Invariant: the same operations in the same order as there, none of them fused.

use super::Part;
use crate::stream::rule::{LANES, Rule, State};
use std::arch::x86_64::*;

/// As [`Part::score`].
///
/// # Safety
/// The machine has AVX2, and all places are below `state.len()`.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn score(part: &mut Part, rule: &Rule, state: &[State], places: &[u32; LANES]) -> [f32; LANES] {
    let Rule { alpha, beta, l1, l2, .. } = *rule;
    // SAFETY: the caller vouches for the places; arrays of eight are loaded and stored.
    unsafe {
        // A state is as large as an f64, and moved as one.
        let at = |lane: usize| state.as_ptr().add(places[lane] as usize).cast::<f64>();
        let two = |one, other| _mm_loadh_pd(_mm_load_sd(at(one)), at(other));
        let first = _mm256_castpd_ps(_mm256_set_m128d(two(4, 5), two(0, 1)));
        let second = _mm256_castpd_ps(_mm256_set_m128d(two(6, 7), two(2, 3)));
        let z = _mm256_shuffle_ps::<0x88>(first, second);
        let n = _mm256_shuffle_ps::<0xdd>(first, second);
        let root = _mm256_sqrt_ps(n);
        let sign = _mm256_set1_ps(-0.0);
        // The larger one of 0 and what is no number is none.
        let beyond = _mm256_max_ps(_mm256_setzero_ps(), _mm256_sub_ps(_mm256_andnot_ps(sign, z), _mm256_set1_ps(l1)));
        let against = _mm256_xor_ps(beyond, _mm256_andnot_ps(z, sign));
        let grown = _mm256_mul_ps(_mm256_add_ps(_mm256_set1_ps(beta), root), _mm256_set1_ps(alpha.recip()));
        let weight = _mm256_div_ps(against, _mm256_add_ps(grown, _mm256_set1_ps(l2)));
        _mm256_storeu_ps(part.z.as_mut_ptr(), z);
        _mm256_storeu_ps(part.n.as_mut_ptr(), n);
        _mm256_storeu_ps(part.root.as_mut_ptr(), root);
        _mm256_storeu_ps(part.weight.as_mut_ptr(), weight);
        let mut products = [0.0; LANES];
        _mm256_storeu_ps(products.as_mut_ptr(), _mm256_mul_ps(_mm256_loadu_ps(part.value.as_ptr()), weight));
        products
    }
}

/// As [`Part::learn`].
///
/// # Safety
/// The machine has AVX2, and all places are below `state.len()`.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn learn(part: &Part, rule: &Rule, slope: f32, state: &mut [State], places: &[u32]) {
    // SAFETY: as above.
    unsafe {
        let load = |array: &[f32; LANES]| _mm256_loadu_ps(array.as_ptr());
        let gradient = _mm256_mul_ps(_mm256_set1_ps(slope), load(&part.value));
        let n = _mm256_add_ps(load(&part.n), _mm256_mul_ps(gradient, gradient));
        let grown = _mm256_sub_ps(_mm256_sqrt_ps(n), load(&part.root));
        let grown = _mm256_mul_ps(grown, _mm256_set1_ps(rule.alpha.recip()));
        let z = _mm256_sub_ps(gradient, _mm256_mul_ps(grown, load(&part.weight)));
        let z = _mm256_add_ps(load(&part.z), z);
        // States 0, 1, 4, 5 and 2, 3, 6, 7.
        let first = _mm256_unpacklo_ps(z, n);
        let second = _mm256_unpackhi_ps(z, n);
        let Some(all) = places.first_chunk::<LANES>() else {
            let mut after = [State::default(); LANES];
            let to = after.as_flattened_mut().as_mut_ptr();
            _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x20>(first, second));
            _mm256_storeu_ps(to.add(LANES), _mm256_permute2f128_ps::<0x31>(first, second));
            for (place, after) in places.iter().zip(after) {
                *state.get_unchecked_mut(*place as usize) = after;
            }
            return;
        };
        let to = state.as_mut_ptr();
        let at = |lane: usize| to.add(all[lane] as usize).cast::<f64>();
        let put = |one, other, states: __m128| {
            _mm_storel_pd(at(one), _mm_castps_pd(states));
            _mm_storeh_pd(at(other), _mm_castps_pd(states));
        };
        put(0, 1, _mm256_castps256_ps128(first));
        put(2, 3, _mm256_castps256_ps128(second));
        put(4, 5, _mm256_extractf128_ps::<1>(first));
        put(6, 7, _mm256_extractf128_ps::<1>(second));
    }
}
