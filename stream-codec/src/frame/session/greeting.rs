// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Hellos of a session: one per direction and channel, all of them about the same session.

use super::super::hello::{Hello, Role, Support};
use super::super::kind::Kind;
use super::channels::CHANNELS_MAX;
use super::violation::Violation;
use super::{Phase, Session};

impl Session {
    pub(super) fn hello(&mut self, by: Role, channel: u16, hello: &Hello) -> Result<(), Violation> {
        let untimely = Violation::Phase { kind: Kind::Hello, phase: self.phase };
        if self.phase != Phase::Greeting {
            return Err(untimely);
        }
        if hello.channel.index != channel {
            return Err(Violation::Echo { what: "channel" });
        }
        match (by, self.source_hello) {
            (Role::Target, None) => Err(untimely),
            (Role::Target, Some(source)) => self.target_hello(&source, hello),
            (_, Some(first)) => self.further_hello(&first, hello),
            (_, None) => self.first_hello(hello),
        }
    }

    /// The Hello of a source or a file on the first channel.
    fn first_hello(&mut self, hello: &Hello) -> Result<(), Violation> {
        let role = hello.role;
        let ours = self.role != Role::Target;
        if role == Role::Target || (ours && (role != self.role || hello.support != self.support)) {
            return Err(Violation::Role { role });
        }
        let count = hello.channel.count;
        let limit = if role == Role::File { 1 } else { self.limits.channels.min(CHANNELS_MAX) };
        if count > limit {
            return Err(Violation::Channels { count, limit });
        }
        if hello.channel.index != 0 {
            return Err(Violation::Channel { kind: Kind::Hello, channel: hello.channel.index });
        }
        if hello.device_count > self.limits.devices {
            return Err(Violation::Devices { count: hello.device_count, limit: self.limits.devices });
        }
        // A target can tell from the first Hello that they will not agree; a file's reader has nothing else.
        let agreement = self.support.agree(&hello.support).map_err(Violation::Refused)?;
        if count > 1 && agreement.features & Support::CREDIT == 0 {
            return Err(Violation::NoCredit { count });
        }
        self.devices.expect(hello.device_count)?;
        self.channels.expect(count);
        self.channels.join(role, 0)?;
        self.source_hello = Some(*hello);
        if role == Role::File {
            self.agreement = Some(agreement);
            self.phase = Phase::PreCopy;
        }
        Ok(())
    }

    /// The source's Hello on another channel: that of the first but for the index.
    fn further_hello(&mut self, first: &Hello, hello: &Hello) -> Result<(), Violation> {
        repeats(first, hello)?;
        if hello.support != first.support {
            return Err(Violation::Echo { what: "set of versions and features" });
        }
        if hello.role != first.role {
            return Err(Violation::Role { role: hello.role });
        }
        self.channels.join(hello.role, hello.channel.index)
    }

    fn target_hello(&mut self, source: &Hello, hello: &Hello) -> Result<(), Violation> {
        if hello.role != Role::Target || (self.role == Role::Target && hello.support != self.support) {
            return Err(Violation::Role { role: hello.role });
        }
        repeats(source, hello)?;
        let (ours, theirs) = if self.role == Role::Target { (hello, source) } else { (source, hello) };
        let agreement = ours.support.agree(&theirs.support).map_err(Violation::Refused)?;
        if self.agreement.is_some_and(|earlier| earlier != agreement || self.data_bytes_max != hello.data_bytes_max) {
            return Err(Violation::Echo { what: "agreement" });
        }
        if source.channel.count > 1 && agreement.features & Support::CREDIT == 0 {
            return Err(Violation::NoCredit { count: source.channel.count });
        }
        self.channels.join(Role::Target, hello.channel.index)?;
        self.agreement = Some(agreement);
        self.data_bytes_max = hello.data_bytes_max;
        if self.channels.is_all_joined() {
            self.devices.agree(agreement.features & Support::CREDIT != 0, self.channels.is_many());
            self.phase = Phase::PreCopy;
        }
        Ok(())
    }
}

/// Whether a Hello is about the session of an earlier one.
fn repeats(earlier: &Hello, hello: &Hello) -> Result<(), Violation> {
    if hello.nonce != earlier.nonce {
        return Err(Violation::Echo { what: "session nonce" });
    }
    if hello.channel.count != earlier.channel.count {
        return Err(Violation::Echo { what: "channel" });
    }
    if hello.device_count != earlier.device_count {
        return Err(Violation::Echo { what: "device count" });
    }
    Ok(())
}
