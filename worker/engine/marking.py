"""What every picture says of itself to machines: that a model made it, and with which software.

Always the same for the same kind of picture: no time, no number of its own, so that equal pictures are equal bytes.
"""

from __future__ import annotations

from worker import __version__
from worker.jobs.provenance import DigitalSource

SOFTWARE = f"sd-worker {__version__}"
XMP_KEYWORD = "XML:com.adobe.xmp"
"""The international text chunk of a PNG that holds an XMP packet (XMP specification, part 3, 1.1.5)."""


def xmp_packet(source: DigitalSource) -> str:
    """An XMP packet with the digital source type (IPTC Photo Metadata Standard, "Digital Source Type")."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' xmp:CreatorTool="{SOFTWARE}"'
        f' Iptc4xmpExt:DigitalSourceType="{source}"/>'
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    )
