# Every program of poppler on a PDF file.
python3 /tmp/pdf.py
pdftotext x.pdf -
pdftoppm -png x.pdf p
pdfinfo x.pdf
pdfimages -list x.pdf
pdftocairo -svg x.pdf x.svg
pdfunite x.pdf x.pdf y.pdf
pdfseparate y.pdf q%d.pdf
pdffonts x.pdf
pdftohtml -stdout x.pdf
pdftops x.pdf x.ps
pdfdetach -list x.pdf
ls -la
