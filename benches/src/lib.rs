//! What the benchmarks share: what a process cost, and the middle of several measurements.

mod process;

pub use process::{cpu_micros, peak_rss};

/// The median; of an even number of values the upper of the two in the middle.
///
/// # Panics
/// Without a value.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(super::median([9.0, 1.0, 5.0]), 5.0);
        assert_eq!(super::median([4.0, 1.0]), 4.0);
    }
}
