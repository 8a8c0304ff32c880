//! Code compiled for the widest vectors of the machine it runs on.

/// Something to be computed; `run` must be `#[inline(always)]` to gain from [`widest`].
pub trait Work {
    /// What comes out.
    type Output;
    /// Computes it.
    fn run(self) -> Self::Output;
}

/// Runs `work` compiled for the widest vectors of this machine that change no result: AVX2, without fused products.
#[inline]
pub fn widest<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide<W: Work>(work: W) -> W::Output {
            work.run()
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: just detected.
            return unsafe { wide(work) };
        }
    }
    work.run()
}
