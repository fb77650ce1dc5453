"""Writes a PDF file of one page."""
def pdf():
    objs=["<</Type/Catalog/Pages 2 0 R>>","<</Type/Pages/Kids[3 0 R]/Count 1>>","<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>","<</Length 44>>stream\nBT /F1 24 Tf 50 150 Td (Hello roses) Tj ET \nendstream","<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    out=b"%PDF-1.4\n"; offs=[]
    for i,o in enumerate(objs,1):
        offs.append(len(out)); out+=f"{i} 0 obj{o}endobj\n".encode()
    x=len(out); out+=f"xref\n0 {len(objs)+1}\n0000000000 65535 f \n".encode()
    for o in offs: out+=f"{o:010d} 00000 n \n".encode()
    out+=f"trailer<</Size {len(objs)+1}/Root 1 0 R>>startxref\n{x}\n%%EOF".encode()
    return out
open("x.pdf","wb").write(pdf())
