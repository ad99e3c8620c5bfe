//! Feature transforms: from a raw sample to the numbers that labeling functions, training, the golden gate and the device
//! all see. One code for all of them.
//!
//! A sample is either one row of named columns, or one window of a multichannel series, row-major `[length, channels]`.

use serde::{Deserialize, Serialize};

/// Longest window: the spectrum is a direct DFT, quadratic in the length.
pub const MAX_WINDOW: u32 = 4096;
/// Most columns, or channels times statistics.
pub const MAX_FEATURES: usize = 65_536;

/// A statistic of one channel of a window. `x` has `n` steps at `rate_hz`; standard deviations are the population's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    Mean,
    Std,
    Min,
    Max,
    /// max − min
    Range,
    /// Linear interpolation between order statistics (`NumPy`'s default).
    Median,
    /// 75th − 25th percentile, linear interpolation.
    Iqr,
    /// √(Σx²/n)
    Rms,
    /// Σ|x[t]−x[t−1]| / (n−1)
    MeanAbsDiff,
    /// Sign changes of x − mean, per step pair: in [0, 1].
    ZeroCrossingRate,
    /// Frequency (Hz) of the largest power of x − mean, DC excluded.
    DominantFrequency,
    /// `Σ|X_k|²/n²` of x − mean over bins up to 30 % of the Nyquist frequency, DC excluded, one-sided.
    SpectralEnergyLow,
    /// The same over the bins above.
    SpectralEnergyHigh,
    /// Σ|x − mean| / n
    MeanAbsDeviation,
}

impl Statistic {
    pub const ALL: [Self; 14] = [
        Self::Mean,
        Self::Std,
        Self::Min,
        Self::Max,
        Self::Range,
        Self::Median,
        Self::Iqr,
        Self::Rms,
        Self::MeanAbsDiff,
        Self::ZeroCrossingRate,
        Self::DominantFrequency,
        Self::SpectralEnergyLow,
        Self::SpectralEnergyHigh,
        Self::MeanAbsDeviation,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Std => "std",
            Self::Min => "min",
            Self::Max => "max",
            Self::Range => "range",
            Self::Median => "median",
            Self::Iqr => "iqr",
            Self::Rms => "rms",
            Self::MeanAbsDiff => "mean_abs_diff",
            Self::ZeroCrossingRate => "zero_crossing_rate",
            Self::DominantFrequency => "dominant_frequency",
            Self::SpectralEnergyLow => "spectral_energy_low",
            Self::SpectralEnergyHigh => "spectral_energy_high",
            Self::MeanAbsDeviation => "mean_abs_deviation",
        }
    }
}

/// What is computed from a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FeatureSpec {
    /// A row: its columns, as they are.
    Row { columns: Vec<String> },
    /// A window of a series: every statistic of every channel, channel by channel.
    Window {
        channels: Vec<String>,
        /// Steps per window.
        length: u32,
        /// Steps from one window's start to the next's.
        hop: u32,
        rate_hz: f32,
        statistics: Vec<Statistic>,
    },
}

/// Why a specification or a sample is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    #[error("the feature specification is not usable: {0}")]
    Specification(String),
    #[error("a sample of {expected} values is needed ({shape}), {found} are given")]
    Length {
        expected: usize,
        shape: String,
        found: usize,
    },
    #[error("value {index} ({name}) is not a finite number")]
    NotFinite { index: usize, name: String },
}

impl FeatureSpec {
    /// Refuses what could not be computed: no columns, a window of no length, names twice.
    pub fn check(&self) -> Result<(), FeatureError> {
        let refuse = |why: String| Err(FeatureError::Specification(why));
        let names = self.raw_names();
        if names.is_empty() || self.feature_count() == 0 || self.feature_count() > MAX_FEATURES {
            return refuse(format!("{} inputs and {} features", names.len(), self.feature_count()));
        }
        let mut sorted: Vec<&String> = names.iter().collect();
        sorted.sort();
        if let Some(pair) = sorted.windows(2).find(|pair| pair.first() == pair.last()) {
            return refuse(format!("'{}' stands twice", pair.first().map_or("", |s| s.as_str())));
        }
        if let Self::Window {
            length, hop, rate_hz, ..
        } = self
        {
            if *length < 2 || *length > MAX_WINDOW || *hop == 0 {
                return refuse(format!(
                    "window of {length} steps (2 to {MAX_WINDOW}), hop {hop} (at least 1)"
                ));
            }
            if !rate_hz.is_finite() || *rate_hz <= 0.0 {
                return refuse(format!("sampling rate {rate_hz} Hz"));
            }
        }
        Ok(())
    }

    /// Names of what a raw step or row carries, in order.
    pub fn raw_names(&self) -> &[String] {
        match self {
            Self::Row { columns } => columns,
            Self::Window { channels, .. } => channels,
        }
    }

    /// Shape of a batch of raw samples; −1 is the batch.
    pub fn input_shape(&self) -> Vec<i64> {
        match self {
            Self::Row { columns } => vec![-1, to_i64(columns.len())],
            Self::Window { channels, length, .. } => vec![-1, i64::from(*length), to_i64(channels.len())],
        }
    }

    /// Values in one raw sample.
    pub fn sample_len(&self) -> usize {
        match self {
            Self::Row { columns } => columns.len(),
            Self::Window { channels, length, .. } => channels.len().saturating_mul(*length as usize),
        }
    }

    pub fn feature_count(&self) -> usize {
        match self {
            Self::Row { columns } => columns.len(),
            Self::Window {
                channels, statistics, ..
            } => channels.len().saturating_mul(statistics.len()),
        }
    }

    /// `column`, or `channel.statistic`.
    pub fn feature_names(&self) -> Vec<String> {
        match self {
            Self::Row { columns } => columns.clone(),
            Self::Window {
                channels, statistics, ..
            } => channels
                .iter()
                .flat_map(|channel| statistics.iter().map(move |s| format!("{channel}.{}", s.as_str())))
                .collect(),
        }
    }

    /// Features of one raw sample, in the order of [`Self::feature_names`].
    pub fn compute(&self, sample: &[f32]) -> Result<Vec<f32>, FeatureError> {
        let expected = self.sample_len();
        if sample.len() != expected {
            return Err(FeatureError::Length {
                expected,
                shape: format!("{:?}", &self.input_shape().get(1..).unwrap_or_default()),
                found: sample.len(),
            });
        }
        if let Some(index) = sample.iter().position(|v| !v.is_finite()) {
            let names = self.raw_names();
            return Err(FeatureError::NotFinite {
                index,
                name: names.get(index % names.len().max(1)).cloned().unwrap_or_default(),
            });
        }
        match self {
            Self::Row { .. } => Ok(sample.to_vec()),
            Self::Window {
                channels,
                rate_hz,
                statistics,
                ..
            } => {
                let mut out = Vec::with_capacity(self.feature_count());
                for channel in 0..channels.len() {
                    let x: Vec<f64> = sample
                        .iter()
                        .skip(channel)
                        .step_by(channels.len())
                        .map(|v| f64::from(*v))
                        .collect();
                    let mut window = Window::new(x, f64::from(*rate_hz));
                    out.extend(statistics.iter().map(|s| to_f32(window.statistic(*s))));
                }
                Ok(out)
            }
        }
    }
}

fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "models take FP32")]
fn to_f32(v: f64) -> f32 {
    v as f32
}

/// How many of the bins 1..=n/2 lie in the lower 30 %.
const fn low_bins(bins: usize) -> usize {
    bins * 3 / 10
}

/// One channel, with what several statistics share computed once.
struct Window {
    x: Vec<f64>,
    n: f64,
    mean: f64,
    rate_hz: f64,
    sorted: Option<Vec<f64>>,
    /// Power of bins 1..=n/2.
    power: Option<Vec<f64>>,
}

impl Window {
    fn new(x: Vec<f64>, rate_hz: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "windows have at most 4096 steps")]
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        Self {
            x,
            n,
            mean,
            rate_hz,
            sorted: None,
            power: None,
        }
    }

    fn statistic(&mut self, statistic: Statistic) -> f64 {
        let (n, mean) = (self.n, self.mean);
        match statistic {
            Statistic::Mean => mean,
            Statistic::Std => (self.x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt(),
            Statistic::Min => self.quantile(0.0),
            Statistic::Max => self.quantile(1.0),
            Statistic::Range => self.quantile(1.0) - self.quantile(0.0),
            Statistic::Median => self.quantile(0.5),
            Statistic::Iqr => self.quantile(0.75) - self.quantile(0.25),
            Statistic::Rms => (self.x.iter().map(|v| v * v).sum::<f64>() / n).sqrt(),
            Statistic::MeanAbsDiff => self.pairs().map(|(a, b)| (b - a).abs()).sum::<f64>() / (n - 1.0),
            Statistic::ZeroCrossingRate => {
                let crossings = self
                    .pairs()
                    .filter(|(a, b)| (a - mean >= 0.0) != (b - mean >= 0.0))
                    .count();
                f64::from(u32::try_from(crossings).unwrap_or(u32::MAX)) / (n - 1.0)
            }
            Statistic::DominantFrequency => {
                let rate_hz = self.rate_hz;
                let mut best = (0u32, 0.0);
                for (bin, power) in (1u32..).zip(self.power()) {
                    if *power > best.1 {
                        best = (bin, *power);
                    }
                }
                f64::from(best.0) * rate_hz / n
            }
            Statistic::SpectralEnergyLow => {
                let power = self.power();
                power.iter().take(low_bins(power.len())).sum::<f64>() / (n * n)
            }
            Statistic::SpectralEnergyHigh => {
                let power = self.power();
                power.iter().skip(low_bins(power.len())).sum::<f64>() / (n * n)
            }
            Statistic::MeanAbsDeviation => self.x.iter().map(|v| (v - mean).abs()).sum::<f64>() / n,
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.x.iter().copied().zip(self.x.iter().copied().skip(1))
    }

    /// `NumPy`'s linear interpolation.
    fn quantile(&mut self, q: f64) -> f64 {
        let sorted = self.sorted.get_or_insert_with(|| {
            let mut sorted = self.x.clone();
            sorted.sort_by(f64::total_cmp);
            sorted
        });
        let position = q * (self.n - 1.0);
        let below = position.floor();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 ≤ position < n ≤ 4096"
        )]
        let index = below as usize;
        let a = sorted.get(index).copied().unwrap_or(0.0);
        let b = sorted.get(index + 1).copied().unwrap_or(a);
        a + (b - a) * (position - below)
    }

    /// |DFT|² of x − mean for bins 1..=n/2; bin k is k·rate/n Hz.
    fn power(&mut self) -> &[f64] {
        let (x, mean) = (&self.x, self.mean);
        self.power.get_or_insert_with(|| {
            let n = x.len();
            #[expect(clippy::cast_precision_loss, reason = "windows have at most 4096 steps")]
            let table: Vec<(f64, f64)> = (0..n)
                .map(|t| (std::f64::consts::TAU * t as f64 / n as f64).sin_cos())
                .collect();
            (1..=n / 2).map(|k| bin_power(x, mean, &table, k)).collect()
        })
    }
}

/// `|Σ (x_t − mean)·e^(−2πi·k·t/n)|²`; `table` holds sine and cosine of 2πt/n for t in 0..n.
fn bin_power(x: &[f64], mean: f64, table: &[(f64, f64)], k: usize) -> f64 {
    let (mut re, mut im) = (0.0, 0.0);
    let mut phase = 0usize;
    for v in x {
        let (sin, cos) = table.get(phase).copied().unwrap_or((0.0, 1.0));
        re += (v - mean) * cos;
        im -= (v - mean) * sin;
        phase += k;
        if phase >= table.len() {
            phase -= table.len();
        }
    }
    re.mul_add(re, im * im)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(statistics: Vec<Statistic>, length: u32) -> FeatureSpec {
        FeatureSpec::Window {
            channels: vec!["a".into(), "b".into()],
            length,
            hop: length,
            rate_hz: 10.0,
            statistics,
        }
    }

    #[test]
    fn statistics_match_numpy() {
        // np.mean, std, min, max, ptp, median, iqr, rms … of [1, 4, 2, 8] and of its negative.
        let spec = spec(Statistic::ALL.to_vec(), 4);
        let sample: Vec<f32> = [1.0f32, 4.0, 2.0, 8.0].iter().flat_map(|v| [*v, -*v]).collect();
        let got = spec.compute(&sample).unwrap();
        // |DFT|² of bins 1, 2 is 17, 81: dominant is bin 2 = 5 Hz; both lie above 30 % of 2 bins: 98 / 16.
        let expected = [
            3.75, 2.680_951, 1.0, 8.0, 7.0, 3.0, 3.25, 4.609_772, 3.666_666, 1.0, 5.0, 0.0, 6.125, 2.25,
        ];
        for (name, (got, expected)) in spec.feature_names().iter().zip(got.iter().zip(expected)) {
            assert!((got - expected).abs() < 1e-5, "{name}: {got} is not {expected}");
        }
        assert_eq!(spec.feature_names()[14], "b.mean");
        assert!((got[14] + 3.75).abs() < 1e-6);
    }

    #[test]
    fn a_sine_is_found_at_its_frequency() {
        let spec = spec(vec![Statistic::DominantFrequency, Statistic::SpectralEnergyLow], 100);
        let sample: Vec<f32> = (0u8..100)
            .flat_map(|t| {
                let phase = std::f32::consts::TAU * f32::from(t) / 10.0;
                [(1.3 * phase).sin() + 7.0, (4.0 * phase).cos()]
            })
            .collect();
        let got = spec.compute(&sample).unwrap();
        assert!((got[0] - 1.3).abs() < 1e-6 && (got[1] - 0.25).abs() < 1e-4);
        assert!((got[2] - 4.0).abs() < 1e-6 && got[3] < 1e-4);
    }

    #[test]
    fn bad_samples_and_specifications_are_named() {
        let row = FeatureSpec::Row {
            columns: vec!["x".into(), "y".into()],
        };
        assert!(matches!(
            row.compute(&[1.0]),
            Err(FeatureError::Length { expected: 2, .. })
        ));
        let error = row.compute(&[1.0, f32::NAN]).unwrap_err();
        assert_eq!(error.to_string(), "value 1 (y) is not a finite number");
        assert!(FeatureSpec::Row { columns: vec![] }.check().is_err());
        assert!(
            FeatureSpec::Row {
                columns: vec!["x".into(), "x".into()]
            }
            .check()
            .is_err()
        );
        assert!(spec(vec![Statistic::Mean], 1).check().is_err());
        assert!(spec(vec![Statistic::Mean], 5000).check().is_err());
    }

    #[test]
    fn a_constant_channel_has_no_frequency() {
        let spec = spec(Statistic::ALL.to_vec(), 8);
        let got = spec.compute(&[5.0; 16]).unwrap();
        assert!(got.iter().all(|v| v.is_finite()));
        assert_eq!(got[10].to_bits(), 0.0f32.to_bits(), "no dominant frequency");
    }
}
