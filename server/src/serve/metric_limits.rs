//! Limits on the metrics of one device, as flags of `muster serve` and `muster up`.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use muster_ingest::metrics::DeviceLimits;

use muster_schemas::units::{parse_bytes, parse_seconds};

/// Limits on the metrics of one device.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct MetricLimits {
    /// Role ingest: maximum age of a metric point, or the retention if shorter
    #[arg(long, env = "MUSTER_METRIC_MAX_AGE", default_value = "30d", value_parser = parse_duration, value_name = "TIME")]
    metric_max_age: Duration,
    /// Role ingest: maximum distance of a metric point into the future
    #[arg(long, env = "MUSTER_METRIC_MAX_AHEAD", default_value = "10m", value_parser = parse_duration, value_name = "TIME")]
    metric_max_ahead: Duration,
    /// Role ingest: maximum number of store shards that a device writes to per day
    #[arg(long, env = "MUSTER_METRIC_SHARDS_PER_DAY", default_value = "64", value_name = "N")]
    metric_shards_per_day: NonZeroU32,
    /// Role ingest: maximum metric messages per second of a device; tenfold in bursts
    #[arg(
        long,
        env = "MUSTER_METRIC_MESSAGES_PER_SECOND",
        default_value = "100",
        value_name = "N"
    )]
    metric_messages_per_second: NonZeroU32,
    /// Role ingest: maximum line protocol bytes per second of a device; tenfold in bursts
    #[arg(long, env = "MUSTER_METRIC_BYTES_PER_SECOND", default_value = "4MiB", value_parser = parse_rate, value_name = "BYTES")]
    metric_bytes_per_second: NonZeroU32,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_seconds(text).map(|seconds| Duration::from_secs(seconds.into()))
}

fn parse_rate(text: &str) -> Result<NonZeroU32, String> {
    let wrong = || format!("'{text}' is not from 1 byte to 4 GiB per second");
    u32::try_from(parse_bytes(text)?).ok().and_then(NonZeroU32::new).ok_or_else(wrong)
}

impl From<MetricLimits> for DeviceLimits {
    fn from(limits: MetricLimits) -> Self {
        Self {
            max_age: limits.metric_max_age,
            max_ahead: limits.metric_max_ahead,
            max_shards: usize::try_from(limits.metric_shards_per_day.get()).unwrap_or(usize::MAX),
            messages_per_second: limits.metric_messages_per_second.get(),
            bytes_per_second: limits.metric_bytes_per_second.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        limits: MetricLimits,
    }

    #[test]
    fn the_defaults_match_those_of_ingest() {
        let parsed: DeviceLimits = Command::parse_from(["x"]).limits.into();
        assert_eq!(format!("{parsed:?}"), format!("{:?}", DeviceLimits::default()));
        assert!(Command::try_parse_from(["x", "--metric-bytes-per-second", "0"]).is_err());
        assert!(Command::try_parse_from(["x", "--metric-max-age", "30"]).is_err());
    }
}
