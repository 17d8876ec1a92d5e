//! TLS in Rust alone: rustls with the algorithms of graviola, which needs neither a C compiler nor an assembler.

use std::path::Path;

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::error::{HubError, Result};

/// Largest file of certificates that is read. Whole collections of a system have about 0.2 MB.
const MOST_BYTES: u64 = 16 << 20;

/// The configuration, or why this processor cannot have one.
///
/// # Errors
/// When the file of root certificates cannot be used.
pub(crate) fn configuration(certificates: Option<&Path>) -> Result<Result<TlsConfig, &'static str>> {
    if !processor_is_able() {
        return Ok(Err(
            "https needs a processor with AES instructions (x86-64 with AVX2 and ADX, or aarch64 with AES \
                       and SHA2), which this one is not; use an http mirror or --mirror DIR",
        ));
    }
    install_provider();
    let mut config = TlsConfig::builder();
    if let Some(file) = certificates {
        config = config.root_certs(read_certificates(file)?);
    }
    Ok(Ok(config.build()))
}

fn read_certificates(file: &Path) -> Result<RootCerts> {
    let refuse = |problem: String| HubError::Argument {
        name: "SSL_CERT_FILE or REQUESTS_CA_BUNDLE",
        found: file.display().to_string(),
        problem,
    };
    let size = std::fs::metadata(file).map_err(HubError::io(file, "open the root certificates"))?.len();
    if size > MOST_BYTES {
        return Err(refuse(format!(
            "it has {size} bytes; a PEM file with certificates is smaller than {MOST_BYTES}"
        )));
    }
    let pem = std::fs::read(file).map_err(HubError::io(file, "read the root certificates"))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| refuse(format!("not a PEM file: {e}")))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(refuse("it holds no certificate in PEM form".to_string()));
    }
    Ok(RootCerts::from(found))
}

/// Makes graviola's algorithms those of the process, unless it has chosen others before.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn install_provider() {
    static INSTALL: std::sync::Once = std::sync::Once::new();
    INSTALL.call_once(|| drop(rustls_graviola::default_provider().install_default()));
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn install_provider() {}

/// The instructions that graviola refuses to start without.
fn processor_is_able() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        has!("aes") && has!("pclmulqdq") && has!("bmi1") && has!("adx") && has!("avx") && has!("avx2")
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        has!("neon") && has!("aes") && has!("pmull") && has!("sha2")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}
