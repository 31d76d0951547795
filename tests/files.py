"""Snapshots of one market in every form that people have them in, values made up."""

import gzip
import io
import json
import zipfile
from xml.sax.saxutils import escape

import pandas as pd

# What each file below says: coin, date, price, change over an hour, volume, capitalisation.
MARKET = [
    ("Alpha", "2026-01-02", 1.5, 0.012, 1000000.0, 20000000.0),
    ("Café", "2026-01-02", 0.00021, -0.005, 5000.0, 1234567.0),
    ("Gamma", "2026-01-25", 91234.5, 0.002, 38000000.0, 1200000000.0),
]
OWN = ["coin", "date", "price", "1h", "24h_volume", "mkt_cap"]


def lines(rows=MARKET, header=OWN, separator=",", end="\n"):
    return end.join(separator.join(map(str, row)) for row in [header, *rows]) + end


def comma_cells(separator):
    rows = [[str(cell).replace(".", ",") for cell in row] for row in MARKET]
    return lines(rows, separator=separator)


def thousands():
    rows = [
        (coin, date, *(f"{n:,.6f}".translate(str.maketrans(",.", ".,")) for n in numbers))
        for coin, date, *numbers in MARKET
    ]
    return lines(rows, separator=";")


def printed():
    """As a person copies it from a market site into a spreadsheet."""
    return (
        "#,Name,Price,1h %,Market Cap,Volume(24h),Last Updated\n"
        '1,Alpha,$1.50,1.2%,"$20,000,000","$1,000,000","January 2, 2026"\n'
        '2,Café,$0.00021,-0.5%,"$1,234,567","$5,000",2 Jan 2026\n'
        '3,Gamma,"$91,234.5",0.2%,$1.2B,38M,25-Jan-26\n'
    )


def dates(form):
    rows = [(coin, pd.Timestamp(date).strftime(form), *rest) for coin, date, *rest in MARKET]
    return lines(rows)


def frame():
    return pd.DataFrame(MARKET, columns=OWN)


def parquet(table, **options):
    file = io.BytesIO()
    table.to_parquet(file, **options)
    return file.getvalue()


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return file.getvalue()


def spreadsheet():
    """The smallest workbook that Excel opens: one sheet, texts in its cells or numbers."""

    def cell(value):
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'
        return f"<c><v>{value!r}</v></c>"

    rows = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in [OWN, *MARKET])
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
            f'"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName='
            f'"/xl/workbook.xml" ContentType="{kinds}.sheet.main+xml"/><Override PartName='
            f'"/xl/worksheets/sheet1.xml" ContentType="{kinds}.worksheet+xml"/></Types>',
        )
        for name, kind, target in (
            ("_rels/.rels", "officeDocument", "xl/workbook.xml"),
            ("xl/_rels/workbook.xml.rels", "worksheet", "worksheets/sheet1.xml"),
        ):
            archive.writestr(
                name,
                f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
                f'Type="{office}/{kind}" Target="{target}"/></Relationships>',
            )
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
            '<sheet name="Market" sheetId="1" r:id="r1"/></sheets></workbook>',
        )
        archive.writestr(
            "xl/worksheets/sheet1.xml",
            f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>',
        )
    return file.getvalue()


def coingecko():
    names = ("name", "last_updated", "current_price", "price_change_percentage_1h_in_currency",
             "total_volume", "market_cap")  # fmt: skip
    return json.dumps(
        [
            {"id": coin.lower(), "symbol": coin[:3], "price_change_24h": 7.0}
            | {"price_change_percentage_24h": 4.0}
            | dict(zip(names, (coin, f"{date}T18:00:00.000Z", price, 100 * h, *rest), strict=True))
            for coin, date, price, h, *rest in MARKET
        ]
    )


def quotes(key, **document):
    """CoinMarketCap's listings and CoinPaprika's tickers: figures one level down."""
    names = ("price", "percent_change_1h", "volume_24h", "market_cap")
    return [
        {"id": n, "name": coin, "symbol": coin[:3], "last_updated": f"{date}T00:00:00.000Z"}
        | {"date_added": "2013-04-28T00:00:00.000Z", "max_supply": None}
        | {key: {"USD": dict(zip(names, (price, 100 * h, *rest), strict=True))}}
        for n, (coin, date, price, h, *rest) in enumerate(MARKET, 1)
    ]


def flattened():
    return pd.json_normalize(quotes("quote")).to_csv(index=False)


def line_breaks():
    rows = [(f'"{coin}"', *rest, '"two\nlines"') for coin, *rest in MARKET]
    return lines(rows, [*OWN, "note"])


# Name of the file: its content.
FORMS = {
    "commas.csv": lines(),
    "CAPITALS.CSV": lines(),
    "byte_order_mark.csv": lines().encode("utf-8-sig"),
    "line_ends.csv": lines(end="\r\n"),
    "semicolons.csv": comma_cells(";"),
    "tabs.tsv": comma_cells("\t").encode("utf-16"),
    "bars.csv": lines(separator="|"),
    "thousands.csv": thousands(),
    "windows.csv": lines().encode("cp1252"),
    "excel.csv": f"sep=;\r\n{comma_cells(';')}",
    "packed.csv": gzip.compress(lines().encode()),
    "packed.csv.gz": gzip.compress(lines().encode()),
    "archive.zip": zipped(market_csv=lines(), ____MACOSX___market_csv=b"\0\0"),
    "archive.csv.zip": zipped(market_csv=printed()),
    "book.xlsx": spreadsheet(),
    "index.parquet": parquet(frame().set_index(["date", "coin"])),
    "categories.parquet": parquet(frame().astype({"coin": "category", "date": "datetime64[ns]"})),
    "own.json": json.dumps(frame().to_dict("records")),
    "own.jsonl": "".join(json.dumps(row) + "\n" for row in frame().to_dict("records")),
    "coingecko.json": coingecko(),
    "coinmarketcap.json": json.dumps({"status": {"error_code": 0}, "data": quotes("quote")}),
    "coinmarketcap.csv": flattened(),
    "coinpaprika.json": json.dumps(quotes("quotes")),
    "printed.csv": printed(),
    "american.csv": dates("%m/%d/%Y"),
    "european.csv": dates("%d.%m.%Y"),
    "zone.csv": dates("%Y-%m-%d 00:00:00 UTC"),
    "offset.csv": dates("%Y-%m-%dT05:30:00+05:30"),
    "line_breaks.csv": line_breaks(),
    "words.csv": lines(header=["COIN NAME", "Date (UTC)", "Price (USD)", "Change 1h",
                               "24h Volume", "Market Capitalization"]),
}  # fmt: skip


def write(folder, name):
    """One of FORMS as a file of the folder."""
    content = FORMS[name]
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
