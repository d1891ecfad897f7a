//! Alternating measurements of muster and a peer, A B A B, so that a slow minute affects both.

/// Number of pairs in a comparison.
pub(crate) const PAIRS: usize = 3;

/// The results of a comparison's pairs, per second.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    ours: Vec<f64>,
    peer: Vec<f64>,
}

impl Pairs {
    /// Adds a pair.
    pub(crate) fn add(&mut self, ours: f64, peer: f64) {
        self.ours.push(ours);
        self.peer.push(peer);
    }

    /// The median of muster's results.
    pub(crate) fn ours(&self) -> f64 {
        median(self.ours.clone())
    }

    /// The median of the peer's results.
    pub(crate) fn peer(&self) -> f64 {
        median(self.peer.clone())
    }

    /// The median of the pairs' ratios.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.ours.iter().zip(&self.peer).map(|(ours, peer)| ours / peer).collect())
    }
}

/// The median.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value below which this share of the numbers lies.
pub(crate) fn percentile(mut numbers: Vec<f64>, share: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let index = (share * numbers.len() as f64).ceil() as usize;
    numbers.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
