// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The order in which frames may come, on either side of a stream.

mod channels;
mod devices;
mod greeting;
mod violation;

use core::fmt;

pub use self::channels::CHANNELS_MAX;
use self::channels::Channels;
use self::devices::Devices;
pub use self::devices::{CREDIT_FRAMES_MAX, DevicePhase};
pub use self::violation::{SessionError, Violation};
use super::hello::{Agreement, Hello, Role, Support};
use super::kind::Kind;
use super::limits::Limits;
use super::message::Message;

/// How far a session has come.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// Not both sides have said Hello on every channel.
    Greeting,
    /// The guest runs at the source; devices are opened and send pre-copy data.
    PreCopy,
    /// The guest is stopped; devices send the rest.
    StopCopy,
    /// The source has handed over.
    Committed,
    /// The target has taken over.
    Complete,
    /// A side gave up.
    Aborted {
        /// Which one.
        by: Role,
        /// Whether that was after the Commit. The source does not run the guest by itself then.
        committed: bool,
    },
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Greeting => formatter.write_str("greeting"),
            Self::PreCopy => formatter.write_str("pre-copy"),
            Self::StopCopy => formatter.write_str("stop-copy"),
            Self::Committed => formatter.write_str("committed"),
            Self::Complete => formatter.write_str("complete"),
            Self::Aborted { by, .. } => write!(formatter, "aborted by the {by}"),
        }
    }
}

/// Checks the order and the totals of a conversation, on the side of a source, of a target, or of a file's writer.
///
/// It is told of every frame, in both directions: of those received before anything is made of them, of those sent
/// before they go out. It knows both halves because the rules span them: no Data before the *other* side's
/// DeviceAccept, no Commit before its last Loaded.
///
/// It performs no I/O and keeps a fixed-size record and a name per device, so at most
/// [`Limits::devices`] × (192 + [`Limits::name_bytes`]) bytes, whatever is received.
///
/// A session of several channels is one `Session` that is told on which channel each frame went. Frames of different
/// channels may overtake each other, so there the Data frames of a device may come in any order, inside its credit.
///
/// After our own Abort, frames that were under way to us are ignored. After a violation by the peer nothing more is
/// accepted from it and only an Abort may be sent.
///
/// ```
/// use stream_codec::frame::{Channel, Hello, Limits, Message, Phase, Role, Session, Support, Violation};
///
/// let mut target = Session::new(Role::Target, Support::CURRENT, Limits::DEFAULT);
/// let hello = Hello {
///     support: Support::CURRENT,
///     role: Role::Source,
///     nonce: [7; 16],
///     channel: Channel::ONLY,
///     device_count: 1,
///     data_bytes_max: 0,
/// };
/// target.received(&Message::Hello(hello))?;
/// target.sent(&Message::Hello(hello.reply(Support::CURRENT, 1 << 20)))?;
/// assert_eq!(target.phase(), Phase::PreCopy);
///
/// let error = target.received_data(0, 0, 512).unwrap_err();
/// assert!(matches!(error.violation, Violation::Device { device: 0, .. }), "{error}");
/// # Ok::<(), stream_codec::frame::SessionError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    role: Role,
    support: Support,
    limits: Limits,
    phase: Phase,
    source_hello: Option<Hello>,
    agreement: Option<Agreement>,
    /// Largest Data payload the target takes, once it said so.
    data_bytes_max: u32,
    channels: Channels,
    devices: Devices,
    /// What the peer did wrong; final.
    failed: Option<SessionError>,
}

impl Session {
    /// A session in which this side is `role` and speaks what `support` says.
    #[must_use]
    pub const fn new(role: Role, support: Support, limits: Limits) -> Self {
        Self {
            role,
            support,
            limits,
            phase: Phase::Greeting,
            source_hello: None,
            agreement: None,
            data_bytes_max: u32::MAX,
            channels: Channels::NONE,
            devices: Devices::new(),
            failed: None,
        }
    }

    /// How far the session has come.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// What both sides speak, once both have said Hello. Reading a file: what the file uses.
    #[must_use]
    pub const fn agreement(&self) -> Option<Agreement> {
        self.agreement
    }

    /// The Hello of the source or file, once it was said.
    #[must_use]
    pub const fn source_hello(&self) -> Option<&Hello> {
        self.source_hello.as_ref()
    }

    /// Whether the stream is a file, in which nobody answers.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.source_hello.is_some_and(|hello| hello.role == Role::File)
    }

    /// How far a device has come; `None` if there is no device of that number.
    #[must_use]
    pub fn device_phase(&self, device: u32) -> Option<DevicePhase> {
        self.devices.phase(device)
    }

    /// The device that stands for guest memory, once a region of it was named.
    #[must_use]
    pub const fn memory_device(&self) -> Option<u32> {
        self.devices.memory()
    }

    /// How many bytes of Data a device has had; `None` if there is no device of that number.
    #[must_use]
    pub fn device_bytes(&self, device: u32) -> Option<u64> {
        self.devices.bytes(device)
    }

    /// The sequence number of the first Data frame of a device that has not come yet; `None` if there is no device of
    /// that number.
    #[must_use]
    pub fn next_sequence(&self, device: u32) -> Option<u64> {
        self.devices.next_sequence(device)
    }

    /// How many Data frames of a device there is room for at the target, counted from the first; `None` if there is no
    /// device of that number, `u64::MAX` in a session without credit.
    #[must_use]
    pub fn credit(&self, device: u32) -> Option<u64> {
        self.devices.credit(device)
    }

    /// Whether the source has ended every device.
    #[must_use]
    pub fn is_all_ended(&self) -> bool {
        self.devices.is_all_ended()
    }

    /// Whether the target has acknowledged every device.
    #[must_use]
    pub fn is_all_loaded(&self) -> bool {
        self.devices.is_all_loaded()
    }

    /// Takes note of a control frame from the peer on the only channel, or the first.
    ///
    /// # Errors
    /// [`SessionError`] if it may not come now. Final: nothing that the peer sends is accepted any more.
    pub fn received(&mut self, message: &Message<'_>) -> Result<(), SessionError> {
        self.received_on(0, message)
    }

    /// Takes note of a control frame from the peer on `channel`. For a Hello that is the index it names.
    ///
    /// # Errors
    /// As for [`received`](Self::received).
    pub fn received_on(&mut self, channel: u16, message: &Message<'_>) -> Result<(), SessionError> {
        self.receive(message.kind(), |session, by| session.control(by, channel, message))
    }

    /// Takes note of a Data frame of `length` bytes from the peer on the only channel, or the first.
    ///
    /// # Errors
    /// As for [`received`](Self::received).
    pub fn received_data(&mut self, device: u32, sequence: u64, length: u32) -> Result<(), SessionError> {
        self.received_data_on(0, device, sequence, length)
    }

    /// Takes note of a Data frame of `length` bytes from the peer on `channel`.
    ///
    /// # Errors
    /// As for [`received`](Self::received).
    pub fn received_data_on(
        &mut self,
        channel: u16,
        device: u32,
        sequence: u64,
        length: u32,
    ) -> Result<(), SessionError> {
        self.receive(Kind::Data, |session, by| session.data(by, channel, device, sequence, length))
    }

    /// Takes note of a control frame that this side is about to send on the only channel, or the first.
    ///
    /// # Errors
    /// [`SessionError`] if it may not be sent now. Nothing has changed then.
    pub fn sent(&mut self, message: &Message<'_>) -> Result<(), SessionError> {
        self.sent_on(0, message)
    }

    /// Takes note of a control frame that this side is about to send on `channel`.
    ///
    /// # Errors
    /// As for [`sent`](Self::sent).
    pub fn sent_on(&mut self, channel: u16, message: &Message<'_>) -> Result<(), SessionError> {
        let ours = self.role;
        if matches!(message, Message::Abort(_)) && (self.failed.is_some() || self.is_aborted()) {
            self.failed = None;
            if !self.is_aborted() {
                self.phase = Phase::Aborted { by: ours, committed: self.is_committed() };
            }
            return Ok(());
        }
        self.send(message.kind(), |session| session.control(ours, channel, message))
    }

    /// Takes note of a Data frame of `length` bytes that this side is about to send on the only channel, or the first.
    ///
    /// # Errors
    /// As for [`sent`](Self::sent).
    pub fn sent_data(&mut self, device: u32, sequence: u64, length: u32) -> Result<(), SessionError> {
        self.sent_data_on(0, device, sequence, length)
    }

    /// Takes note of a Data frame of `length` bytes that this side is about to send on `channel`.
    ///
    /// # Errors
    /// As for [`sent`](Self::sent).
    pub fn sent_data_on(&mut self, channel: u16, device: u32, sequence: u64, length: u32) -> Result<(), SessionError> {
        let ours = self.role;
        self.send(Kind::Data, |session| session.data(ours, channel, device, sequence, length))
    }

    /// Says whether the peer's stream may end here: after the last frame the peer has to send, or after an Abort.
    ///
    /// # Errors
    /// [`Violation::EndedEarly`], or the peer's earlier violation.
    pub fn finish(&self) -> Result<(), SessionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let may_end = match self.phase {
            Phase::Greeting | Phase::PreCopy | Phase::StopCopy => false,
            // A source has said its last word; a target still owes the Complete.
            Phase::Committed => self.role != Role::Source,
            Phase::Complete | Phase::Aborted { .. } => true,
        };
        if may_end { Ok(()) } else { Err(self.received_error(Violation::EndedEarly { phase: self.phase })) }
    }

    fn receive(
        &mut self,
        kind: Kind,
        apply: impl FnOnce(&mut Self, Role) -> Result<(), Violation>,
    ) -> Result<(), SessionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = match self.phase {
            // Sent before our Abort arrived there.
            Phase::Aborted { by, .. } if by == self.role => return Ok(()),
            // Both gave up at once.
            Phase::Aborted { .. } => Err(Violation::AfterAbort { kind }),
            _ => apply(self, self.peer_role()),
        };
        result.map_err(|violation| {
            let error = self.received_error(violation);
            self.failed = Some(error);
            error
        })
    }

    fn send(&mut self, kind: Kind, apply: impl FnOnce(&mut Self) -> Result<(), Violation>) -> Result<(), SessionError> {
        let result = if let Some(error) = self.failed {
            Err(error.violation)
        } else if self.is_aborted() {
            Err(Violation::AfterAbort { kind })
        } else {
            apply(self)
        };
        result.map_err(|violation| SessionError { by: self.role, is_ours: true, violation })
    }

    fn received_error(&self, violation: Violation) -> SessionError {
        SessionError { by: self.peer_role(), is_ours: false, violation }
    }

    /// The other side's role, as far as it is known.
    fn peer_role(&self) -> Role {
        match self.role {
            Role::Target if self.is_file() => Role::File,
            Role::Target => Role::Source,
            Role::Source | Role::File => Role::Target,
        }
    }

    const fn is_aborted(&self) -> bool {
        matches!(self.phase, Phase::Aborted { .. })
    }

    const fn is_committed(&self) -> bool {
        matches!(self.phase, Phase::Committed | Phase::Complete)
    }

    fn control(&mut self, by: Role, channel: u16, message: &Message<'_>) -> Result<(), Violation> {
        let kind = message.kind();
        if (self.role == Role::File || self.is_file()) && by == Role::Target {
            return Err(Violation::FileAnswered { kind });
        }
        match message {
            Message::Hello(hello) => return self.hello(by, channel, hello),
            Message::Abort(_) => return self.abort(by),
            Message::ChannelEnd => {
                self.check_phase(kind)?;
                return self.channels.end(by, channel);
            }
            _ => {}
        }
        let by_target = by == Role::Target;
        let is_answer =
            matches!(kind, Kind::DeviceAccept | Kind::InitialAck | Kind::Credit | Kind::Loaded | Kind::Complete);
        if by_target != is_answer {
            return Err(Violation::WrongSender { kind });
        }
        self.check_phase(kind)?;
        if channel != 0 && kind != Kind::Switchover {
            return Err(Violation::WrongChannel { kind, channel });
        }
        let is_file = self.is_file();
        match message {
            Message::DeviceOpen(open) => self.devices.open(open, is_file),
            Message::Region(region) => {
                self.require_feature(kind, Support::MEMORY)?;
                self.devices.region(region, self.limits.regions)
            }
            Message::InitialDone(done) => {
                self.require_feature(kind, Support::INITIAL_ACK)?;
                self.devices.announce(done)
            }
            Message::InitialAck { device, generation } => {
                self.require_feature(kind, Support::INITIAL_ACK)?;
                self.devices.acknowledge(*device, *generation)
            }
            Message::DeviceAccept { device } => self.devices.accept(*device),
            Message::DeviceEnd(end) => self.devices.end(end, is_file),
            Message::Loaded(loaded) => self.devices.load(loaded),
            Message::Credit { device, frames } => self.devices.grant(*device, *frames),
            Message::Switchover => {
                self.devices.require_all_accepted(kind)?;
                self.channels.switch(channel)?;
                if channel == 0 {
                    self.phase = Phase::StopCopy;
                }
                Ok(())
            }
            Message::Commit => {
                self.devices.require_all_loaded(kind)?;
                self.channels.require_all_ended()?;
                self.phase = Phase::Committed;
                Ok(())
            }
            Message::Complete => {
                self.phase = Phase::Complete;
                Ok(())
            }
            Message::Hello(_) | Message::Abort(_) | Message::ChannelEnd => Ok(()),
        }
    }

    fn data(&mut self, by: Role, channel: u16, device: u32, sequence: u64, length: u32) -> Result<(), Violation> {
        if by == Role::Target {
            return Err(Violation::WrongSender { kind: Kind::Data });
        }
        self.check_phase(Kind::Data)?;
        self.channels.require_open(Kind::Data, channel)?;
        let limit = if by == self.role { self.data_bytes_max } else { self.limits.data_bytes.min(self.data_bytes_max) };
        if length > limit {
            return Err(Violation::DataLength { device, length, limit });
        }
        self.devices.data(device, sequence, length)
    }

    /// Whether both sides offer a feature. Acknowledgements are none of a file's, whatever it offers.
    fn require_feature(&self, kind: Kind, feature: u64) -> Result<(), Violation> {
        let is_void = feature == Support::INITIAL_ACK && self.is_file();
        match self.agreement {
            Some(agreement) if agreement.features & feature != 0 && !is_void => Ok(()),
            _ => Err(Violation::NoFeature { kind, bit: feature.trailing_zeros() }),
        }
    }

    /// Whether a frame of this kind may come in this phase at all.
    fn check_phase(&self, kind: Kind) -> Result<(), Violation> {
        let phase = self.phase;
        let fits = match kind {
            Kind::Hello | Kind::Abort => true,
            Kind::DeviceOpen | Kind::DeviceAccept | Kind::Region => phase == Phase::PreCopy,
            // One for each channel, in any order.
            Kind::Switchover => phase == Phase::PreCopy || (phase == Phase::StopCopy && self.channels.is_many()),
            // A ChannelEnd may overtake the first channel's Switchover.
            Kind::Data | Kind::ChannelEnd => matches!(phase, Phase::PreCopy | Phase::StopCopy),
            Kind::InitialDone => phase == Phase::PreCopy,
            // One may be under way when the source switches over without it.
            Kind::InitialAck | Kind::Credit => matches!(phase, Phase::PreCopy | Phase::StopCopy),
            Kind::DeviceEnd | Kind::Loaded | Kind::Commit => phase == Phase::StopCopy,
            Kind::Complete => phase == Phase::Committed,
        };
        if fits { Ok(()) } else { Err(Violation::Phase { kind, phase }) }
    }

    fn abort(&mut self, by: Role) -> Result<(), Violation> {
        let committed = self.is_committed();
        if self.phase == Phase::Complete || (committed && by != Role::Target) {
            return Err(Violation::Phase { kind: Kind::Abort, phase: self.phase });
        }
        self.phase = Phase::Aborted { by, committed };
        Ok(())
    }
}
