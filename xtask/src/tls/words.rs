// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What went wrong with TLS, whose fault it is, and what to do.

use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// The peer hung up before it proved who it is.
pub(super) const NO_HANDSHAKE: &str =
    "the peer closed the connection instead of proving who it is: its own message says why";
/// Its first word is the end.
pub(super) const NO_WORD: &str = "the peer closed the connection at the first word of TLS: give --tls-cert, --tls-key and --tls-ca on \
    both sides, or on neither; its own message says why";
/// It says nothing.
pub(super) const SILENT_HANDSHAKE: &str =
    "the peer did not prove in time who it is: is it a migration of ours, with --tls-cert too?";
/// The stream ended without the word that it ends.
pub(super) const CUT_OFF: &str = "the connection was cut off: the peer has not said that it ends (no close_notify)";
/// What was said last was the end, or broke off.
pub(super) const IS_OVER: &str = "nothing more can be sent: this side has said that it ends, or failed to send";
/// What a side without TLS hears from one with it.
pub(crate) const WANTS_TLS: &str =
    "the peer speaks TLS, and this side does not: give --tls-cert, --tls-key and --tls-ca on both sides, or on neither";
/// And the other way around.
const NO_TLS: &str =
    "the peer does not speak TLS: give --tls-cert, --tls-key and --tls-ca on both sides, or on neither";

/// As the transport's error.
pub(super) fn error(error: &Error) -> io::Error {
    let kind = match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented | Error::AlertReceived(_) => {
            ErrorKind::PermissionDenied
        }
        _ => ErrorKind::InvalidData,
    };
    io::Error::new(kind, sentence(error))
}

fn sentence(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => format!("the peer's certificate is refused: {}", certificate(fault)),
        Error::NoCertificatesPresented => "the peer shows no certificate, and this side wants one".into(),
        Error::AlertReceived(alert) => alert_sentence(*alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            NO_TLS.into()
        }
        Error::PeerIncompatible(why) => format!("the peer cannot speak TLS 1.3 as this side does: {why:?}"),
        Error::DecryptError => "a record is damaged: something changed it on its way".into(),
        other => format!("TLS failed: {other}"),
    }
}

fn certificate(fault: &CertificateError) -> String {
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; compare the clocks".into()
        }
        CertificateError::BadSignature => {
            "an authority of --tls-ca has the name of who signed it, and another key".into()
        }
        CertificateError::UnknownIssuer => "no authority of --tls-ca has signed it".into(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is for somebody else ({fault}); --tls-name says who is expected")
        }
        other => other.to_string(),
    }
}

fn alert_sentence(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::UnknownCA => "the peer refuses this side's certificate: no authority that it trusts has signed it".into(),
        A::DecryptError => {
            "the peer refuses this side's certificate: the signature on it is not its authority's".into()
        }
        A::CertificateExpired => "the peer refuses this side's certificate: it has expired".into(),
        A::BadCertificate | A::CertificateUnknown | A::CertificateRevoked | A::UnsupportedCertificate => {
            format!("the peer refuses this side's certificate ({alert:?}): is it for the name that the peer expects?")
        }
        A::CertificateRequired => "the peer wants a certificate, and this side has shown none".into(),
        A::ProtocolVersion => "the peer refuses TLS 1.3".into(),
        other => format!("the peer ended the connection: {other:?}"),
    }
}
