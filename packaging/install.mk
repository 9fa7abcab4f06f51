# Installing on this machine, and packages for others. Included by the Makefile.
#
# PREFIX: where the command is linked and the unit lies; the program itself is always /opt/ssm-status-reporter.
# DESTDIR: a root to install below, for an image; then nothing of this machine is touched.
PREFIX ?= /usr/local
DESTDIR ?=
# The service cannot see an interpreter below /root or /home, so this is not PYTHON.
SYSTEM_PYTHON ?= /usr/bin/python3
# Where packages go, and their release.
DIST ?= dist
RELEASE ?= 1

WHEELS := build/wheels
PROGRAM := /opt/ssm-status-reporter
UNIT := ssm-status-reporter.service
UNITS := $(DESTDIR)$(PREFIX)/lib/systemd/system
DROP_INS := $(DESTDIR)$(PREFIX)/lib/ssm-status-reporter/drop-ins
# A package that is installed beside: program, link, state and configuration are its own then.
PACKAGED := $(if $(DESTDIR)$(filter /usr,$(PREFIX)),,$(wildcard /usr/lib/ssm-status-reporter/setup))
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' agent/ssm_status_reporter/__init__.py)

.PHONY: install uninstall deb rpm

$(WHEELS)/requirements.txt: packaging/wheelhouse packaging/installer.txt requirements/runtime.txt $(SOURCES)
	@echo "collecting the wheels in $(WHEELS)"
	@mkdir -p build
	@flock build/wheels.lock packaging/wheelhouse $(SYSTEM_PYTHON) build/wheelhouse $(WHEELS)

install: $(WHEELS)/requirements.txt ## install on this machine as a service (PREFIX, DESTDIR, SYSTEM_PYTHON)
ifeq ($(DESTDIR),)
	@install -D -m 644 systemd/sysusers.d/ssm-status-reporter.conf $(PREFIX)/lib/sysusers.d/ssm-status-reporter.conf
	@install -D -m 644 systemd/tmpfiles.d/ssm-status-reporter.conf $(PREFIX)/lib/tmpfiles.d/ssm-status-reporter.conf
	@packaging/setup install $(SYSTEM_PYTHON) $(WHEELS) $(PREFIX)/lib
else
	@install -D -m 644 systemd/sysusers.d/ssm-status-reporter.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/ssm-status-reporter.conf
	@install -D -m 644 systemd/tmpfiles.d/ssm-status-reporter.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/ssm-status-reporter.conf
	@packaging/environment $(SYSTEM_PYTHON) $(WHEELS) $(PROGRAM) $(abspath $(DESTDIR))
endif
	@install -d $(DESTDIR)$(PREFIX)/bin
	@ln -sfn $(PROGRAM)/bin/ssm-status-reporter $(DESTDIR)$(PREFIX)/bin/ssm-status-reporter
	@install -D -m 644 systemd/$(UNIT) $(UNITS)/$(UNIT)
	@if test "$$(stat -c %g $(DESTDIR)/etc/shadow 2> /dev/null || echo 0)" = 0; then \
		install -D -m 644 systemd/$(UNIT).d.examples/shadow.conf $(UNITS)/$(UNIT).d/shadow.conf; fi
	@install -d $(DROP_INS) $(DESTDIR)$(PREFIX)/share/doc/ssm-status-reporter
	@install -m 644 systemd/$(UNIT).d.examples/*.conf $(DROP_INS)
	@install -m 644 README.md config/iam-policy.json config/schema.json $(DESTDIR)$(PREFIX)/share/doc/ssm-status-reporter
	@test -e $(DESTDIR)/etc/ssm-status-reporter/config.yaml || \
		install -D -m 644 config/config.yaml $(DESTDIR)/etc/ssm-status-reporter/config.yaml
	@test -e $(DESTDIR)/etc/ssm-status-reporter/environment || \
		install -D -m 600 packaging/proxy.env $(DESTDIR)/etc/ssm-status-reporter/environment
ifeq ($(DESTDIR),)
	@if test -d /run/systemd/system; then systemctl daemon-reload && { systemctl "$$(packaging/setup renewal)" $(UNIT) || \
		echo "it does not run yet: systemctl status ssm-status-reporter says why" >&2; }; fi
	@echo "installed; if it does not run yet: systemctl enable --now ssm-status-reporter"
endif

uninstall: ## remove it; state, results and configuration stay, but with PURGE=1
ifeq ($(DESTDIR),)
ifeq ($(PACKAGED),)
	@if test -d /run/systemd/system; then systemctl stop $(UNIT) || true; fi
	@if test -e $(UNITS)/$(UNIT); then systemctl --quiet disable $(UNIT) || true; fi
	@packaging/setup remove
	@if test -n "$(PURGE)"; then packaging/setup purge; fi
endif
endif
	@if test -z "$(PACKAGED)"; then rm -rf $(DESTDIR)$(PROGRAM) $(DESTDIR)$(PREFIX)/bin/ssm-status-reporter; fi
	@rm -rf $(UNITS)/$(UNIT).d $(UNITS)/$(UNIT)
	@rm -rf $(DESTDIR)$(PREFIX)/lib/ssm-status-reporter $(DESTDIR)$(PREFIX)/share/doc/ssm-status-reporter
	@rm -f $(DESTDIR)$(PREFIX)/lib/sysusers.d/ssm-status-reporter.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/ssm-status-reporter.conf
	@if test -n "$(PURGE)" && test -z "$(PACKAGED)"; then rm -rf $(DESTDIR)/etc/ssm-status-reporter; fi
ifeq ($(DESTDIR),)
	@if test -d /run/systemd/system; then systemctl daemon-reload; fi
	@if test -n "$(PACKAGED)"; then packaging/setup handover; fi
endif

deb: $(WHEELS)/requirements.txt ## a Debian package in dist/, for this machine's distribution
	@packaging/deb/build $(VERSION)-$(RELEASE) $(SYSTEM_PYTHON) $(WHEELS) $(DIST)

rpm: $(WHEELS)/requirements.txt ## an RPM package in dist/, for distributions with this machine's version of Python
	@packaging/rpm/build $(VERSION) $(RELEASE) $(SYSTEM_PYTHON) $(WHEELS) $(DIST)
