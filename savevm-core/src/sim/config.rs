// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices described in text.

use std::borrow::ToOwned as _;
use std::boxed::Box;
use std::string::String;
use std::sync::Arc;

use vfio_mig_fsm::Capabilities;

use super::fault::parse_step;
use super::{
    Clock, ConfigError, DirtyLogging, DmaFacts, Drained, FaultPlan, FaultRule, Model, Mtty, Options, Plain,
    PlainConfig, SimDevice, SystemClock, Timing, units,
};

/// A device described in text: a model with its options, delays and faults.
///
/// # Grammar
///
/// ```text
/// config  = { word | comment }            words are separated by spaces and line ends
/// comment = "#" … end of line
/// word    = key "=" value                 no spaces in either; each key once, but `fault` and `step-ms`
/// size    = number [ "B" | "KiB" | "MiB" | "GiB" | "TiB" ]
/// rate    = size [ "/s" ]
/// time    = number [ "us" | "ms" | "s" ]  without a unit: milliseconds
/// number  = decimal | "0x" hexadecimal
/// state   = "STOP" | "RUNNING" | "STOP_COPY" | "RESUMING" | "RUNNING_P2P" | "PRE_COPY" | "PRE_COPY_P2P"
/// step    = state ">" state
/// ```
///
/// Every model:
///
/// | key | value | meaning | default |
/// |---|---|---|---|
/// | `model` | `plain`, `mtty`, … | which driver | required |
/// | `transition-ms` | time | delay of every step | 0 |
/// | `step-ms` | step `:` time | delay of this step instead; repeatable | |
/// | `read-ms-per-mib` | time | delay of reading | 0 |
/// | `write-ms-per-mib` | time | delay of writing | 0 |
/// | `query-ms` | time | delay of PRECOPY_INFO and MIG_DATA_SIZE | 0 |
/// | `fault` | see below; repeatable | a fault | |
///
/// `model=mtty`: `ports` = 1 or 2 (default 1).
///
/// `model=plain`, see [`PlainConfig`] for the meaning and the defaults:
///
/// | key | value |
/// |---|---|
/// | `caps` | 1, 3, 5 or 7: the `VFIO_MIGRATION_*` flags |
/// | `initial`, `dirty`, `dirty-total`, `stop` | size |
/// | `dirty-rate` | rate |
/// | `drained` | `nomsg` or `zero` |
/// | `reinit-after` | number of queries, from 1 |
/// | `sticky-errors`, `write-holds-state` | `yes` or `no` |
/// | `dirty-log` | `absent`, `permissive` or `exclusive` |
/// | `dma-rate` | rate; without it there is no DMA. The next three go with it |
/// | `dma-write` | size, 16 to 4096 in steps of 16 (default 64) |
/// | `dma-in-p2p` | `yes` (default) or `no` |
/// | `dma-log-page` | size, a power of two from 4096 (default: what is asked for) |
/// | `seed` | number |
///
/// Faults: `fault=CALL[:PLACE]:ACTION[@WHEN]`
///
/// | | |
/// |---|---|
/// | CALL | `open`, `get_state`, `set_state`, `step`, `read`, `write`, `precopy_info`, `mig_data_size`, `reset` |
/// | PLACE | of `set_state`: the state asked for; of `step`: the step |
/// | ACTION | an errno (`EIO` or a number); `error-state=`errno: fails and leaves the device in ERROR; `dead=`errno: fails and ends the session; `delay=`time; `hang=`time: returns `ETIMEDOUT` after that, or on a reset; `short=`size: no more bytes than that; `flip=`number: one bit of that byte is wrong, counted from 0 in what is read; `answer=`number or number`/`number: succeeds with that state, size, or initial and dirty bytes |
/// | WHEN | `@2`: the second matching call only; `@2+`: the second and all later ones; without it: every one |
///
/// ```
/// use savevm_core::sim::SimConfig;
///
/// let text = "model=plain caps=7 initial=1MiB dirty=4MiB stop=16MiB dirty-rate=100MiB/s
///             transition-ms=5 write-ms-per-mib=8 seed=42 fault=set_state:STOP_COPY:EIO@2";
/// let device = SimConfig::parse(text)?.device()?;
/// assert_eq!(device.migration_flags(), Some(7));
///
/// let error = SimConfig::parse("model=mtty\nports=3")?.device().unwrap_err();
/// assert_eq!(error.to_string(), "line 2: ports=3: expected 1 or 2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SimConfig {
    model: String,
    timing: Timing,
    faults: FaultPlan,
    options: Options,
}

/// Builds a model from the options it takes. It must not call [`Options::finish`].
pub type ModelFactory<'a> = &'a dyn Fn(&mut Options) -> Result<Box<dyn Model>, ConfigError>;

impl SimConfig {
    /// Parses what is common to all models; the model's own keys are looked at when the device is made.
    ///
    /// # Errors
    /// Says the line, the key and what was expected.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::from_options(Options::parse(text)?)
    }

    /// As [`parse`](Self::parse), from pairs of which a caller has already taken its own.
    ///
    /// # Errors
    /// As `parse`.
    pub fn from_options(mut options: Options) -> Result<Self, ConfigError> {
        let line = options.line();
        let model = options.take("model", "the name of a model", |text| Some(text.to_owned()))?;
        let model = model.ok_or_else(|| ConfigError {
            line,
            key: "model".to_owned(),
            expected: "model=plain or model=mtty".to_owned(),
        })?;
        let timing = Timing {
            transition: options.take_duration("transition-ms")?.unwrap_or_default(),
            steps: options.take_all("step-ms", |text| {
                let parsed =
                    text.split_once(':').and_then(|(step, time)| Some((parse_step(step)?, units::duration(time)?)));
                parsed.ok_or("a step and a time, as in step-ms=STOP>STOP_COPY:20")
            })?,
            read_per_mib: options.take_duration("read-ms-per-mib")?.unwrap_or_default(),
            write_per_mib: options.take_duration("write-ms-per-mib")?.unwrap_or_default(),
            query: options.take_duration("query-ms")?.unwrap_or_default(),
        };
        let faults = options.take_all("fault", FaultRule::parse)?.into_iter().collect();
        Ok(Self { model, timing, faults, options })
    }

    /// The name of the model.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Makes a device of a built-in model, with real time.
    ///
    /// # Errors
    /// Unknown model, or an option that the model does not take.
    pub fn device(&self) -> Result<SimDevice, ConfigError> {
        self.device_with(&[], Arc::new(SystemClock::new()))
    }

    /// Makes a device of a built-in model or one of `models`, on the caller's clock.
    ///
    /// # Errors
    /// Unknown model, or an option that the model does not take.
    pub fn device_with(
        &self,
        models: &[(&str, ModelFactory<'_>)],
        clock: Arc<dyn Clock>,
    ) -> Result<SimDevice, ConfigError> {
        let mut options = self.options.clone();
        let line = options.line();
        let model = match (self.model.as_str(), models.iter().find(|(name, _)| *name == self.model)) {
            (_, Some((_, factory))) => factory(&mut options)?,
            ("plain", None) => Box::new(Plain::new(plain(&mut options)?)),
            ("mtty", None) => Box::new(mtty(&mut options)?),
            (unknown, None) => {
                let names: String = models.iter().map(|(name, _)| std::format!(", {name}")).collect();
                let expected = std::format!("plain, mtty{names}");
                return Err(ConfigError { line, key: std::format!("model={unknown}"), expected });
            }
        };
        options.finish("a key of this model")?;
        Ok(SimDevice::with(model, self.timing.clone(), self.faults.clone(), clock))
    }
}

fn mtty(options: &mut Options) -> Result<Mtty, ConfigError> {
    let ports = options.take("ports", "1 or 2", |text| text.parse().ok().filter(|ports| (1..=2).contains(ports)))?;
    Ok(Mtty::new(ports.unwrap_or(1)))
}

fn plain(options: &mut Options) -> Result<PlainConfig, ConfigError> {
    let mut config = PlainConfig::default();
    let set = |field: &mut u64, value: Option<u64>| *field = value.unwrap_or(*field);
    let capabilities = options.take("caps", "1, 3, 5 or 7", |text| {
        let flags = text.parse().ok().filter(|flags| *flags <= 7)?;
        Capabilities::from_flags(flags)
    })?;
    config.capabilities = capabilities.unwrap_or(config.capabilities);
    set(&mut config.initial_bytes, options.take_bytes("initial")?);
    set(&mut config.dirty_bytes, options.take_bytes("dirty")?);
    set(&mut config.dirty_total_bytes, options.take_bytes("dirty-total")?);
    set(&mut config.stop_bytes, options.take_bytes("stop")?);
    set(&mut config.seed, options.take_number("seed")?);
    config.dirty_rate = options.take_rate("dirty-rate")?;
    config.reinit_after =
        options.take("reinit-after", "a number from 1", |text| units::number(text).filter(|n| *n > 0))?;
    let drained = options.take("drained", "nomsg or zero", |text| match text {
        "nomsg" => Some(Drained::Nomsg),
        "zero" => Some(Drained::Zero),
        _ => None,
    })?;
    config.drained = drained.unwrap_or(config.drained);
    let logging = options.take("dirty-log", "absent, permissive or exclusive", |text| match text {
        "absent" => Some(DirtyLogging::Absent),
        "permissive" => Some(DirtyLogging::Permissive),
        "exclusive" => Some(DirtyLogging::Exclusive),
        _ => None,
    })?;
    config.dirty_logging = logging.unwrap_or(config.dirty_logging);
    config.dma = dma(options)?;
    config.sticky_errors = options.take_bool("sticky-errors")?.unwrap_or(config.sticky_errors);
    config.write_holds_state = options.take_bool("write-holds-state")?.unwrap_or(config.write_holds_state);
    Ok(config)
}

fn dma(options: &mut Options) -> Result<Option<DmaFacts>, ConfigError> {
    let Some(rate) = options.take_rate("dma-rate")? else { return Ok(None) };
    let write_bytes = options.take("dma-write", "a size from 16 to 4096 in steps of 16", |text| {
        let bytes = usize::try_from(units::bytes(text)?).ok()?;
        (bytes % 16 == 0 && (16..=4096).contains(&bytes)).then_some(bytes)
    })?;
    let log_page_bytes = options.take("dma-log-page", "a power of two from 4096", |text| {
        units::bytes(text).filter(|bytes| bytes.is_power_of_two() && *bytes >= 4096)
    })?;
    let writes_in_p2p = options.take_bool("dma-in-p2p")?.unwrap_or(true);
    Ok(Some(DmaFacts { rate, write_bytes: write_bytes.unwrap_or(64), writes_in_p2p, log_page_bytes }))
}

#[cfg(test)]
mod test {
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn errors_say_line_key_and_what_was_expected() {
        for (text, expected) in [
            ("ports=1", "line 1: model: expected model=plain or model=mtty"),
            ("model=mtty\n\nports", "line 3: ports: expected key=value"),
            ("model=mtty ports=1 ports=2", "line 1: ports=2: expected only one"),
            ("model=mtty speed=9", "line 1: speed=9: expected a key of this model"),
            ("model=teapot", "line 1: model=teapot: expected plain, mtty"),
            ("model=plain caps=2", "line 1: caps=2: expected 1, 3, 5 or 7"),
            ("model=plain caps=9", "line 1: caps=9: expected 1, 3, 5 or 7"),
            ("model=plain dma-write=64", "line 1: dma-write=64: expected a key of this model"),
            (
                "model=plain dma-rate=1 dma-write=24",
                "line 1: dma-write=24: expected a size from 16 to 4096 in steps of 16",
            ),
            ("model=plain\ninitial=1MB", "line 2: initial=1MB: expected a size, as in 4096 or 16MiB"),
            (
                "model=plain step-ms=STOP:5",
                "line 1: step-ms=STOP:5: expected a step and a time, as in step-ms=STOP>STOP_COPY:20",
            ),
        ] {
            let error = SimConfig::parse(text).and_then(|config| config.device().map(|_| ())).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn every_key_reaches_its_field() {
        let text = "model=plain caps=5 initial=1KiB dirty=2KiB dirty-total=3KiB stop=4KiB dirty-rate=5KiB/s
                    drained=zero reinit-after=6 sticky-errors=no write-holds-state=yes dirty-log=absent seed=0x7
                    dma-rate=8MiB/s dma-write=32 dma-in-p2p=no dma-log-page=64KiB # end";
        let mut config = SimConfig::parse(text).unwrap();
        let plain = plain(&mut config.options).unwrap();
        let expected = PlainConfig {
            capabilities: Capabilities::PreCopy,
            initial_bytes: 1024,
            dirty_bytes: 2048,
            dirty_rate: Some(5120),
            dirty_total_bytes: 3072,
            stop_bytes: 4096,
            drained: Drained::Zero,
            reinit_after: Some(6),
            sticky_errors: false,
            write_holds_state: true,
            dirty_logging: DirtyLogging::Absent,
            dma: Some(DmaFacts { rate: 8 << 20, write_bytes: 32, writes_in_p2p: false, log_page_bytes: Some(65536) }),
            seed: 7,
        };
        assert_eq!(plain, expected);
        config.options.finish("nothing").unwrap();
    }

    #[test]
    fn foreign_models_bring_their_own_keys() {
        let config = SimConfig::parse("model=card lanes=2").unwrap();
        let factory: ModelFactory<'_> = &|options| {
            let lanes = options.take_number("lanes")?.unwrap_or(1);
            Ok(Box::new(Mtty::new(u32::try_from(lanes).unwrap())))
        };
        let device = config.device_with(&[("card", factory)], Arc::new(SystemClock::new())).unwrap();
        device.open().unwrap();
        assert_eq!(device.mig_data_size(), Ok(96));
    }
}
