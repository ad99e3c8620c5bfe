//! The fleet's certificate authority: its own certificate, the server's (which never lapses), and the devices' (90 days).
//!
//! A device's request proves possession of its key; everything else in it is overwritten. Which device may have a
//! certificate is decided elsewhere.

use std::fmt;
use std::time::Duration;

use flotilla_protocol::ids::{DeviceId, Digest};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Longest request that is looked at.
pub const MAX_CSR_BYTES: usize = 16 * 1024;
const DAY_MS: i64 = 24 * 3600 * 1000;
const CA_LIFETIME_MS: i64 = 3652 * DAY_MS;
/// 9999-12-31T23:59:59Z: no well-defined end (RFC 5280 §4.1.2.5). A server's certificate is issued anew at every start, and its key
/// is kept nowhere. A device whose clock was led astray must be able to connect, or nobody can tell it the time.
const NO_END_MS: i64 = 253_402_300_799_000;
const DEVICE_LIFETIME_MS: i64 = 90 * DAY_MS;
/// Clocks differ.
const BACKDATE_MS: i64 = 3600 * 1000;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("the fleet CA's {what} cannot be used: {why}")]
    Authority { what: &'static str, why: String },
    #[error("'{name}' cannot stand in a certificate: a host name or an IP address is needed")]
    Name { name: String },
    #[error("the certificate request cannot be read: {0}")]
    Malformed(String),
    #[error("the certificate request's key is {0}: P-256 or Ed25519 is needed")]
    Key(String),
    #[error("the certificate request's signature does not fit its key: possession is not proved")]
    Possession,
    #[error("cannot make a certificate: {0}")]
    Issue(#[from] rcgen::Error),
}

/// A server's certificate and key.
#[derive(Clone)]
pub struct ServerCertificate {
    pub chain_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("chain_pem", &self.chain_pem)
            .finish_non_exhaustive()
    }
}

/// A device's new certificate.
#[derive(Debug, Clone)]
pub struct DeviceCertificate {
    pub pem: String,
    /// SHA-256 of its DER.
    pub digest: Digest,
    /// Unix milliseconds.
    pub expires: i64,
}

/// See the module's documentation.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    /// Unix milliseconds.
    not_before: i64,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca({})", Digest::of(&self.der))
    }
}

impl Ca {
    /// Makes the authority of a new fleet; gives it with its certificate and its key, PEM.
    pub fn create(fleet_name: &str, now: i64) -> Result<(Self, String, String), CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = base_params(
            &format!("{fleet_name} fleet CA"),
            now - BACKDATE_MS,
            now + CA_LIFETIME_MS,
        );
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(&key)?;
        let (pem, key_pem) = (certificate.pem(), key.serialize_pem());
        Ok((Self::load(&pem, &key_pem)?, pem, key_pem))
    }

    /// Opens the authority and checks that certificate and key belong together.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let refused = |what: &'static str| move |why: String| CaError::Authority { what, why };
        let key = KeyPair::from_pem(key_pem).map_err(|why| refused("key")(why.to_string()))?;
        let (_rest, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes())
            .map_err(|why| refused("certificate")(why.to_string()))?;
        let certificate = pem
            .parse_x509()
            .map_err(|why| refused("certificate")(why.to_string()))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(refused("key")("it is not the certificate's".to_owned()));
        }
        let not_before = certificate.validity().not_before.timestamp().saturating_mul(1000);
        let der = pem.contents.clone();
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(der.as_slice()), key)
            .map_err(|why| refused("certificate")(why.to_string()))?;
        Ok(Self {
            issuer,
            der,
            not_before,
        })
    }

    /// The authority's own certificate.
    pub fn certificate_der(&self) -> &[u8] {
        &self.der
    }

    /// A certificate for the broker and the device API under these host names and addresses. It is valid from the
    /// authority's own first day on, without end: a device must be able to connect whatever it takes the time for.
    pub fn issue_server(&self, names: &[String]) -> Result<ServerCertificate, CaError> {
        let mut params = base_params(
            names.first().map_or("fleet-server", String::as_str),
            self.not_before,
            NO_END_MS,
        );
        params.subject_alt_names = names
            .iter()
            .map(|name| alternative_name(name))
            .collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServerCertificate {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Answers a device's request (PKCS#10, PEM). Of the request only the key counts: subject, names and usages are ours.
    pub fn sign_csr(&self, csr_pem: &str, device: &DeviceId, now: i64) -> Result<DeviceCertificate, CaError> {
        let request = read_request(csr_pem)?;
        let expires = now + DEVICE_LIFETIME_MS;
        let mut params = base_params(device.as_str(), now - BACKDATE_MS, expires);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(DeviceCertificate {
            pem: certificate.pem(),
            digest: Digest::of(certificate.der()),
            expires,
        })
    }
}

fn alternative_name(name: &str) -> Result<SanType, CaError> {
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let text = Ia5String::try_from(name).map_err(|_why| CaError::Name { name: name.to_owned() })?;
    Ok(SanType::DnsName(text))
}

/// What all certificates have in common. Serial numbers are random: rcgen's own is made from the key, and a renewal keeps
/// the key.
fn base_params(common_name: &str, not_before: i64, not_after: i64) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(not_before);
    params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(not_after);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let mut serial: [u8; 16] = rand::random();
    if let Some(first) = serial.first_mut() {
        // Positive and of full length (RFC 5280 §4.1.2.2).
        *first = (*first & 0x7f) | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn since_epoch(ms: i64) -> Duration {
    Duration::from_secs(u64::try_from(ms / 1000).unwrap_or(0))
}

/// Reads a request, checks its key's type, and that whoever made it holds the key.
fn read_request(csr_pem: &str) -> Result<CertificateSigningRequestParams, CaError> {
    if csr_pem.len() > MAX_CSR_BYTES {
        return Err(CaError::Malformed(format!("longer than {MAX_CSR_BYTES} bytes")));
    }
    let (_rest, pem) =
        x509_parser::pem::parse_x509_pem(csr_pem.as_bytes()).map_err(|why| CaError::Malformed(why.to_string()))?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(CaError::Malformed(format!(
            "a '{}' where a 'CERTIFICATE REQUEST' is needed",
            clip(&pem.label)
        )));
    }
    let (rest, parsed) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|why| CaError::Malformed(why.to_string()))?;
    if !rest.is_empty() {
        return Err(CaError::Malformed("trailing bytes".to_owned()));
    }
    check_key(&parsed.certification_request_info.subject_pki)?;
    CertificateSigningRequestParams::from_der(&pem.contents.as_slice().into()).map_err(|why| match why {
        rcgen::Error::InvalidCertificationRequestSignature => CaError::Possession,
        other => CaError::Malformed(other.to_string()),
    })
}

/// The curve is read from the key itself: rcgen looks only at the signature's algorithm.
fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), CaError> {
    let algorithm = &key.algorithm.algorithm;
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    let length = key.subject_public_key.data.len();
    let p256 = *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) && length == 65;
    let ed25519 = *algorithm == OID_SIG_ED25519 && length == 32;
    if p256 || ed25519 {
        return Ok(());
    }
    let curve = curve.map(|oid| format!(" on curve {oid}")).unwrap_or_default();
    Err(CaError::Key(format!("of type {algorithm}{curve}, {length} bytes")))
}

fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::SignatureAlgorithm;

    use super::*;

    const NOW: i64 = 1_795_399_200_000;

    fn ca() -> Ca {
        let (_, pem, key) = Ca::create("test", NOW).unwrap();
        Ca::load(&pem, &key).unwrap()
    }

    fn device() -> DeviceId {
        DeviceId::new("press-07").unwrap()
    }

    fn csr(algorithm: &'static SignatureAlgorithm) -> rcgen::CertificateSigningRequest {
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "another-device");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params
            .serialize_request(&KeyPair::generate_for(algorithm).unwrap())
            .unwrap()
    }

    fn as_pem(der: &[u8]) -> String {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    }

    #[test]
    fn subject_names_and_usages_are_overwritten() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let made = ca().sign_csr(&csr(algorithm).pem().unwrap(), &device(), NOW).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(made.pem.as_bytes()).unwrap();
            let certificate = pem.parse_x509().unwrap();
            assert_eq!(certificate.subject().to_string(), "CN=press-07");
            assert!(certificate.subject_alternative_name().unwrap().is_none());
            let usage = certificate.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && !usage.server_auth && !usage.any);
            assert!(!certificate.is_ca());
            assert_eq!(
                certificate.validity().not_after.timestamp() * 1000,
                NOW + DEVICE_LIFETIME_MS
            );
            assert_eq!(Digest::of(&pem.contents), made.digest);
        }
    }

    #[test]
    fn a_tampered_request_proves_nothing() {
        let good = csr(&rcgen::PKCS_ECDSA_P256_SHA256);
        let der = good.der().to_vec();
        let name = der.windows(14).position(|w| w == b"another-device").unwrap();
        let mut other_name = der.clone();
        other_name[name] ^= 1;
        let mut other_signature = der.clone();
        *other_signature.last_mut().unwrap() ^= 1;
        for tampered in [other_name, other_signature] {
            let error = ca().sign_csr(&as_pem(&tampered), &device(), NOW).unwrap_err();
            assert!(matches!(error, CaError::Possession), "{error}");
        }
        ca().sign_csr(&as_pem(&der), &device(), NOW).unwrap();
    }

    #[test]
    fn other_curves_are_refused() {
        let error = ca()
            .sign_csr(&csr(&rcgen::PKCS_ECDSA_P384_SHA384).pem().unwrap(), &device(), NOW)
            .unwrap_err();
        assert!(matches!(error, CaError::Key(_)), "{error}");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let (_, certificate, key) = Ca::create("test", NOW).unwrap();
        let long = "x".repeat(MAX_CSR_BYTES + 1);
        let mut trailing = csr(&rcgen::PKCS_ED25519).der().to_vec();
        trailing.push(0);
        for bad in [
            "",
            "no PEM",
            &certificate,
            &key,
            &long,
            &as_pem(b"\x30\x84\xff\xff\xff\xff"),
            &as_pem(&trailing),
        ] {
            let error = ca().sign_csr(bad, &device(), NOW).unwrap_err();
            assert!(matches!(error, CaError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let (_, certificate, _) = Ca::create("one", NOW).unwrap();
        let (_, _, key) = Ca::create("two", NOW).unwrap();
        assert!(matches!(
            Ca::load(&certificate, &key),
            Err(CaError::Authority { what: "key", .. })
        ));
    }

    #[test]
    fn server_names_and_addresses_stand_in_the_certificate() {
        let names = ["fleet.example".to_owned(), "127.0.0.1".to_owned()];
        let made = ca().issue_server(&names).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(made.chain_pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(
            certificate
                .subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names
                .len(),
            2
        );
        assert_eq!(certificate.validity().not_before.timestamp() * 1000, NOW - BACKDATE_MS);
        assert_eq!(certificate.validity().not_after.timestamp() * 1000, NO_END_MS);
        // As the RFC has it, letter by letter.
        let end = b"99991231235959Z";
        assert!(pem.contents.windows(end.len()).any(|window| window == end));
        assert!(matches!(
            ca().issue_server(&["é".to_owned()]),
            Err(CaError::Name { .. })
        ));
    }

    #[test]
    fn a_device_takes_the_servers_certificate_at_any_time_of_its_own() {
        use rustls::client::WebPkiServerVerifier;
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{ServerName, UnixTime};

        let ca = ca();
        let made = ca.issue_server(&["fleet.example".to_owned()]).unwrap();
        let mut anchors = rustls::RootCertStore::empty();
        anchors
            .add(CertificateDer::from(ca.certificate_der().to_vec()))
            .unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(std::sync::Arc::new(anchors), provider)
            .build()
            .unwrap();
        let certificate = CertificateDer::from_pem_slice(made.chain_pem.as_bytes()).unwrap();
        let name = ServerName::try_from("fleet.example").unwrap();
        // The hour in which the fleet was made, today, and when director and device are five, fifty or five hundred years ahead.
        for years in [0, 1, 5, 50, 500] {
            let seconds = u64::try_from(NOW / 1000).unwrap() + years * 365 * 24 * 3600;
            let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            let verified = verifier.verify_server_cert(&certificate, &[], &name, &[], at);
            assert!(verified.is_ok(), "after {years} years: {verified:?}");
        }
    }
}
