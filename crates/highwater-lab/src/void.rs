//! Faults that fell on nothing, such as a cut of a link that carried nothing just then. They are counted
//! apart, and a suite most of whose faults are void tries less than it says.

/// The part of its faults that may be void in a suite that does what it says.
const VOID_PART: f64 = 0.1;
/// By so many standard deviations a suite may be above that by chance alone: once in a thousand runs. A
/// run of thirty faults, each void once in twenty, has more than a tenth of them every tenth time.
const DEVIATIONS: f64 = 3.0;

/// Whether more of the faults that were `tried` are `void` than chance explains.
pub(crate) fn is_too_much(void: u64, tried: u64) -> bool {
    let expected = tried as f64 * VOID_PART;
    let deviation = (expected * (1.0 - VOID_PART)).sqrt();
    void as f64 > expected + DEVIATIONS * deviation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_held_to_a_tenth_and_a_short_one_to_what_chance_allows() {
        for (void, tried, too_much) in
            [(0, 0, false), (4, 34, false), (9, 34, true), (3, 10, false), (4, 10, true)]
        {
            assert_eq!(is_too_much(void, tried), too_much, "{void} of {tried}");
        }
        assert!(!is_too_much(220, 2_000));
        assert!(is_too_much(250, 2_000));
    }
}
