//! Code compiled for the widest vectors of the machine it runs on.

/// Something to be computed; `run` must be `#[inline(always)]` to gain from [`widest`].
pub trait Work {
    /// What comes out.
    type Output;
    /// Computes it.
    fn run(self) -> Self::Output;
}

/// Runs `work` compiled for the widest vectors of this machine that change no result: AVX-512, else AVX2, without fused
/// products.
#[inline]
pub fn widest<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn wider<W: Work>(work: W) -> W::Output {
            work.run()
        }
        #[target_feature(enable = "avx2")]
        fn wide<W: Work>(work: W) -> W::Output {
            work.run()
        }
        if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
            // SAFETY: just detected.
            return unsafe { wider(work) };
        }
        if has!("avx2") {
            // SAFETY: just detected.
            return unsafe { wide(work) };
        }
    }
    work.run()
}
