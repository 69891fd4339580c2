// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a stream goes to or comes from.

use core::fmt;
use core::str::FromStr;
use std::path::PathBuf;

/// `tcp:HOST:PORT`, `unix:PATH` or `file:PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Address {
    Tcp(String),
    Unix(PathBuf),
    File(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "expected tcp:HOST:PORT, unix:PATH or file:PATH";
        let (kind, rest) = text.split_once(':').ok_or_else(|| format!("'{text}' has no kind; {wanted}"))?;
        if rest.is_empty() {
            return Err(format!("'{text}' says nothing behind '{kind}:'; {wanted}"));
        }
        match kind {
            "tcp" => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self::Tcp(rest.to_owned())),
                _ => Err(format!("'{rest}' is not HOST:PORT; {wanted}")),
            },
            "unix" => Ok(Self::Unix(rest.into())),
            "file" => Ok(Self::File(rest.into())),
            _ => Err(format!("'{kind}:' is not a kind of address; {wanted}")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => write!(f, "tcp:{at}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were_written() {
        for text in ["tcp:127.0.0.1:7000", "tcp:[::1]:0", "unix:/run/a b.sock", "file:x:y"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("127.0.0.1", "has no kind"),
            ("tcp:127.0.0.1", "is not HOST:PORT"),
            ("tcp::7000", "is not HOST:PORT"),
            ("tcp:host:70000", "is not HOST:PORT"),
            ("unix:", "says nothing"),
            ("rdma:a:1", "is not a kind"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
